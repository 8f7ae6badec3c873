"""The tests of ajax.py. The first hundred lines show how it is used and tested.

`python test_ajax.py` runs all tests. The last section says what else this file does.
"""

if __name__ == "__main__":
    import test_ajax  # This file is an app of its project, under this name.

    raise SystemExit(test_ajax.main())

import django
from django.apps import AppConfig
from django.conf import settings


class ShopConfig(AppConfig):
    name = "test_ajax"
    label = "shop"


settings.configure(
    SECRET_KEY="only for tests",
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.auth",
        "django.contrib.sessions",
        "taggit",
        "ajax",
        "test_ajax.ShopConfig",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    ROOT_URLCONF="test_ajax",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import User
from django.db import models
from django.test import TestCase
from django.urls import include, path

import ajax


# models.py
class Note(models.Model):
    owner = models.ForeignKey(User, models.CASCADE)
    article = models.ForeignKey("Article", models.CASCADE, null=True, blank=True)
    text = models.TextField()


# endpoints.py
def hello(request):
    return {"hello": request.POST.get("name", "world")}


@ajax.register(Note)
class NoteEndpoint(ajax.ModelEndpoint):
    def can_list(self, user):
        return True

    def get_queryset(self, request):
        return super().get_queryset(request).filter(owner=request.user)

    def prepare_record(self, request, record, created):
        record.owner = request.user


urlpatterns = [path("ajax/", include("ajax"))]


class ShopTestCase(TestCase):
    def setUp(self):
        self.client.force_login(User.objects.create_user("ann"))

    def post(self, path, data=None, status=200, form=False, **extra):
        """POST JSON (or a form) to /ajax/{path}.json; return the decoded reply."""
        if not form:
            extra = {"content_type": "application/json"} | extra
        response = self.client.post(f"/ajax/{path}.json", data or {}, **extra)
        return check_reply(self, path, response, status)


class FirstCalls(ShopTestCase):
    def test_a_function_is_called(self):
        reply = self.post("shop/hello", {"name": "Ann"}, form=True)
        self.assertEqual(reply["data"], {"hello": "Ann"})

    def test_a_record_is_created_and_read(self):
        note = self.post("shop/note", {"text": "Milk"})["data"]
        self.assertEqual(self.post(f"shop/note/{note['pk']}/get")["data"], note)

    def test_an_error_names_its_field(self):
        reply = self.post("shop/note", {"text": ""}, status=400)
        self.assertEqual(reply["errors"], {"text": ["This field cannot be blank."]})


# --- What the other tests are made of -------------------------------------------------

import contextlib
import datetime
import enum
import functools
import importlib.util
import inspect
import itertools
import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
import typing
import unittest
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from decimal import Decimal
from pathlib import Path
from unittest import mock
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

import jsonschema
from django import forms, http
from django.apps import apps
from django.contrib.auth import login
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.core import checks, exceptions
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage, default_storage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, connections, transaction
from django.db.utils import IntegrityError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.shortcuts import get_object_or_404
from django.test import Client, TransactionTestCase
from django.test.runner import DiscoverRunner
from django.test.testcases import SimpleTestCase
from django.test.utils import (
    CaptureQueriesContext,
    isolate_apps,
    modify_settings,
    override_settings,
    tag,
)
from django.urls import resolve
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from taggit import models as taggit
from taggit.managers import TaggableManager
from taggit.models import Tag, TaggedItem

# This file is a whole app: it is also its own models.py and endpoints.py.
__path__ = []
for _name in ("models", "endpoints"):
    sys.modules[f"{__name__}.{_name}"] = sys.modules[__name__]
apps.get_app_config("shop").import_models()


def use_database(url):
    """Test on a server, such as postgres://user@host:port/name or mysql://..."""
    server = urlsplit(url)
    engines = {"postgres": "postgresql", "mysql": "mysql"}
    settings.DATABASES["default"].update(
        ENGINE=f"django.db.backends.{engines[server.scheme]}",
        NAME=server.path[1:],
        USER=server.username or "",
        PASSWORD=server.password or "",
        HOST=server.hostname or "",
        PORT=server.port or "",
    )
    del connections["default"]  # It was made for SQLite.


if os.environ.get("AJAX_TEST_DATABASE"):
    use_database(os.environ["AJAX_TEST_DATABASE"])

#: Whether "a" equals "A" in a column: so it is by the default collations of MariaDB.
IGNORES_CASE = connection.vendor == "mysql"


# --- The rest of the shop -------------------------------------------------------------


class Category(models.Model):
    title = models.CharField(max_length=100)
    parent = models.ForeignKey("self", models.CASCADE, null=True, blank=True)


class Article(models.Model):
    category = models.ForeignKey(Category, models.CASCADE)
    author = models.ForeignKey(User, models.CASCADE, related_name="articles")
    title = models.CharField(max_length=200)
    body = models.TextField(blank=True)
    published = models.BooleanField(default=False)
    created = models.DateTimeField(default=timezone.now)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    rating = models.FloatField(null=True, blank=True)
    secret = models.CharField(max_length=100, default="hidden")
    readers = models.ManyToManyField(User, related_name="reads", blank=True)
    tags = TaggableManager(blank=True)

    class Meta:
        ordering = ["-created"]


class Country(models.Model):
    code = models.SlugField(primary_key=True, max_length=2)
    name = models.CharField(max_length=100, unique=True)


class Supplier(models.Model):
    """One that is private is there for all, but `can_get` says who sees it."""

    name = models.CharField(max_length=100)
    is_private = models.BooleanField(default=False)


class Offer(models.Model):
    article = models.ForeignKey(Article, models.CASCADE)
    supplier = models.ForeignKey(Supplier, models.PROTECT)
    note = models.ForeignKey(Note, models.SET_NULL, null=True, blank=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=1)


class Specimen(models.Model):
    """One column of each kind, every one of which may be left out."""

    optional = {"null": True, "blank": True}

    char = models.CharField(max_length=5, **optional)
    kind = models.CharField(max_length=5, choices=[("a", "A"), ("b", "B")], **optional)
    text = models.TextField(**optional)
    words = models.CharField(max_length=20, blank=True)
    email = models.EmailField(**optional)
    url = models.URLField(**optional)
    slug = models.SlugField(**optional)
    address = models.GenericIPAddressField(**optional)
    uuid = models.UUIDField(**optional)
    integer = models.IntegerField(**optional)
    big = models.BigIntegerField(**optional)
    positive = models.PositiveSmallIntegerField(**optional)
    decimal = models.DecimalField(max_digits=5, decimal_places=2, **optional)
    float = models.FloatField(**optional)
    boolean = models.BooleanField(**optional)
    ticked = models.BooleanField(default=True)
    date = models.DateField(**optional)
    time = models.TimeField(**optional)
    moment = models.DateTimeField(**optional)
    duration = models.DurationField(**optional)
    json = models.JSONField(**optional)
    binary = models.BinaryField(max_length=4, editable=True, **optional)
    file = models.FileField(upload_to="specimens", **optional)
    country = models.ForeignKey(Country, models.SET_NULL, **optional)
    twin = models.OneToOneField("self", models.SET_NULL, **optional)
    keepers = models.ManyToManyField(User, blank=True)
    tags = TaggableManager(blank=True)


@ajax.login_required
def whoami(request):
    return {"username": request.user.username}


def ask(request):
    """Return, or raise, what a test wants: see `AjaxTestCase.ask`."""
    return ask.answer(request)


@ajax.register(Category, Offer)
class OpenEndpoint(ajax.ModelEndpoint):
    def can_list(self, user):
        return True


@ajax.register(Article)
class ArticleEndpoint(OpenEndpoint):
    exclude = ["secret"]
    readonly_fields = ["author"]
    sortable_by = ["title", "created", "category__title"]
    search_fields = ["title", "category__title"]
    list_filter = ["category", "published", "created__gte", "readers"]

    def can_update(self, user, record, modified):
        return user == record.author

    def can_delete(self, user, record):
        return user == record.author

    def prepare_record(self, request, record, created):
        if created:
            record.author = request.user

    def publish(self, request):
        """An operation of its own: POST to /ajax/shop/article/1/publish.json."""
        self.record.published = True
        self.record.save()
        return self.record

    def count(self, request):
        """One without a record: POST to /ajax/shop/article/count.json."""
        return self.get_queryset(request).count()


@ajax.register(Country)
class CountryEndpoint(OpenEndpoint):
    fields = ["code", "name"]


@ajax.register(Supplier)
class SupplierEndpoint(OpenEndpoint):
    def can_get(self, user, record):
        return not record.is_private


@ajax.register(Specimen)
class SpecimenEndpoint(OpenEndpoint):
    sortable_by = ["char", "integer", "moment"]
    search_fields = ["char", "^text", "=slug"]
    list_filter = [
        "char", "kind", "text__icontains", "uuid", "integer", "integer__gte", "big",
        "decimal__lt", "float__gt", "boolean", "date", "date__year", "time__hour",
        "moment", "moment__date", "moment__gte", "duration__lte", "json__key",
        "country", "country__name__startswith", "country__isnull", "country__pk",
        "keepers", "twin",
    ]  # fmt: skip


class ContactForm(forms.Form):
    email = forms.EmailField()
    text = forms.CharField(max_length=100)


@ajax.register(ContactForm)
class ContactEndpoint(ajax.FormEndpoint):
    """A form: POST to /ajax/shop/contactform.json."""

    def authenticate(self, request, application, method):
        return True


urlpatterns += [
    path("plain/", ajax.json_response(lambda request: ask.answer(request))),
    path("token/", lambda request: HttpResponse(get_token(request))),
]


# --- How the tests call ---------------------------------------------------------------


def foreign_key(to, **options):
    options |= {"null": True, "blank": True, "related_name": "+"}
    return models.ForeignKey(to, models.CASCADE, **options)


def make_model(name, base=models.Model, **fields):
    return type(name, (base,), fields | {"__module__": __name__})


def yes(self, *arguments):
    return True


def no(self, *arguments):
    return False


@functools.lru_cache(maxsize=256)
def make_validators(label, name, served, encoders, discovery, uses_time_zones):
    """Return by path what checks a reply of one endpoint against openapi.json.

    The other arguments are what that depends on: another one makes other validators.
    """
    paths = {}  # To describe all of them takes long.
    for key, model in ajax.endpoint._paths.items():
        if key[1:] == (label, name):
            paths[key] = model
    with mock.patch.object(ajax.endpoint, "_paths", paths):
        with override_settings(DEBUG=True):
            spec = Client().get("/ajax/openapi.json").json()
    validators = {}
    for path_, item in spec["paths"].items():
        success = item["post"]["responses"]["200"]
        schema = success["content"]["application/json"]["schema"]
        schema = schema | {"components": spec["components"]}
        validators[path_] = jsonschema.Draft202012Validator(schema)
    return validators


def find_validator(path):
    """Return what checks a reply of this path, or None."""
    parts = resolve(f"/ajax/{path}.json").kwargs
    if "pk" in parts:
        parts = parts | {"pk": "{pk}"}
    names = ("app", "name", "model", "pk", "tags", "operation", "command")
    template = "/".join(parts[name] for name in names if name in parts)
    validators = make_validators(
        parts["app"],
        parts.get("name") or parts["model"],
        frozenset(ajax.endpoint._registry.items()),
        frozenset(ajax.encoder._registry.items()),
        ajax._discovery,
        settings.USE_TZ,
    )
    as_create = validators.get(f"/{template}/create.json")
    return validators.get(f"/{template}.json", as_create)


def check_reply(test, path, response, status):
    """Assert that a reply is JSON, has this status and is as openapi.json says.

    Return it decoded.
    """
    test.assertEqual(response["Content-Type"], "application/json", response.content)
    reply = json.loads(response.content)
    test.assertEqual(response.status_code, status, reply)
    test.assertIs(reply["success"], status == 200)
    if status == 200:
        validator = find_validator(path)
        test.assertIsNotNone(validator, f"openapi.json does not know {path}.")
        error = jsonschema.exceptions.best_match(validator.iter_errors(reply))
        test.assertIsNone(error, f"{path}: {error}")
    else:
        test.assertEqual(reply["data"]["code"], status)
    return reply


def create_records(test):
    """Give a test, or a class of tests, two users and some records."""
    test.user = User.objects.create_user("ann", email="ann@example.com")
    test.other = User.objects.create_user("bob", email="bob@example.com")
    test.news = Category.objects.create(title="News")
    test.local = Category.objects.create(title="Local", parent=test.news)
    test.article = Article.objects.create(
        category=test.local,
        author=test.user,
        title="First",
        price=Decimal("9.50"),
        created=parse_datetime("2024-05-06T07:08:09.123456Z"),
    )
    test.article.tags.add("red", "green")
    test.path = f"shop/article/{test.article.pk}"


class EndpointHelpers:
    """What tests of endpoints do often, beside `post`."""

    def setUp(self):
        self.client = Client(raise_request_exception=False)
        self.client.force_login(self.user)

    def errors(self, path, data=None, **extra):
        """POST what is refused with 400; return the errors by field."""
        return self.post(path, data, status=400, **extra)["errors"]

    def send(self, path, body=b"", content_type="application/json", **extra):
        """POST bytes as they are; return the status and the decoded reply."""
        url = f"/ajax/{path}.json"
        response = self.client.generic("POST", url, body, content_type, **extra)
        self.assertEqual(response["Content-Type"], "application/json", response.content)
        return response.status_code, json.loads(response.content)

    def send_junk(self, path, body=b"{}", content_type="application/json", **extra):
        """POST anything, then undo it; return the status, which is below 500."""
        with self.subTest(path, body=body[:60], type=content_type, **extra):
            with transaction.atomic():  # PostgreSQL goes on after an error.
                status, reply = self.send(path, body, content_type, **extra)
                transaction.set_rollback(True)
            self.assertLess(status, 500, reply)
            self.assertIs(reply["success"], status == 200)
            return status

    def shown(self, record):
        """Return what `get` shows of a record."""
        return self.post(f"shop/{record._meta.model_name}/{record.pk}/get")["data"]

    def ask(self, answer, status=200, **extra):
        """Let the function `ask` return answer(request) or raise an exception; call it.

        Return the reply.
        """
        if isinstance(answer, Exception):
            answer = mock.Mock(side_effect=answer)
        with mock.patch.object(ask, "answer", answer, create=True):
            return self.post("shop/ask", status=status, **extra)

    def serve(self, served, **attributes):
        """Register an endpoint with these attributes until the test ends; return it.

        `served` is a model or a form. If it is registered already, the new endpoint
        extends its endpoint.
        """
        registered = ajax.endpoint._registry.get(served)
        if registered:
            base = registered
            ajax.endpoint.unregister(served)
            self.addCleanup(ajax.endpoint.register, served, registered)
        elif issubclass(served, forms.BaseForm):
            base = ajax.FormEndpoint
        else:
            base = ajax.ModelEndpoint
        attributes.setdefault("__module__", __name__)
        endpoint = type(f"{served.__name__}Endpoint", (base,), attributes)
        ajax.endpoint.register(served, endpoint)
        self.addCleanup(ajax.endpoint.unregister, served)
        return endpoint

    def register_encoder(self, model, encoder):
        """Register an encoder for a model until the test ends."""
        ajax.encoder.register(model, encoder)
        self.addCleanup(ajax.encoder.unregister, model)

    def receive(self, signal, receiver):
        """Connect a receiver to a signal until the test ends."""
        signal.connect(receiver, weak=False)
        self.addCleanup(signal.disconnect, receiver)

    @contextlib.contextmanager
    def apps(self, **sources):
        """Install apps that have just an endpoints.py; endpoints are found anew."""
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name, source in sources.items():
                (folder / name).mkdir()
                (folder / name / "__init__.py").touch()
                (folder / name / "endpoints.py").write_text(textwrap.dedent(source))
            for patch in (
                mock.patch.object(sys, "path", [*sys.path, str(folder)]),
                mock.patch.dict(sys.modules),
                mock.patch.object(sys, "dont_write_bytecode", True),
                mock.patch.object(ajax, "_discovery", type(ajax._discovery)()),
                self.modify_settings(INSTALLED_APPS={"append": list(sources)}),
            ):
                importlib.invalidate_caches()
                stack.enter_context(patch)
            yield


class AjaxTestCase(EndpointHelpers, ShopTestCase):
    """Calls as the first of the two users that `create_records` creates."""

    @classmethod
    def setUpTestData(cls):
        create_records(cls)


# --- Urls -----------------------------------------------------------------------------

from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.urls import re_path, reverse
from django.utils import translation
from django.utils.autoreload import BaseReloader, autoreload_started

#: The messages of a 404 without a record: nothing is served, or not this operation.
NO_ENDPOINT = "There is no such endpoint."
NO_OPERATION = "There is no such operation."


def form_named(name, module=__name__):
    return type(name, (forms.Form,), {"__module__": module})


class Urls(AjaxTestCase):
    def test_each_kind_of_path_calls_what_the_url_table_says(self):
        article = self.path
        contact = {"email": "a@example.com", "text": "Hi"}
        news = f"shop/category/{self.news.pk}"
        for path_, sent, is_right in [
            ("shop/hello", None, lambda data: data == {"hello": "world"}),
            ("shop/contactform", contact, lambda data: data == contact),
            ("shop/category", {"title": "A"}, lambda data: data["title"] == "A"),
            ("shop/category/create", {"title": "B"}, lambda data: data["title"] == "B"),
            ("shop/category/list", None, lambda data: len(data) == 4),
            ("shop/article/count", None, lambda data: data == 1),
            (f"{news}/get", None, lambda data: data["title"] == "News"),
            (f"{news}/update", {"title": "C"}, lambda data: data["title"] == "C"),
            (f"{article}/publish", None, lambda data: data["published"] is True),
            (f"{article}/tags/add", {"tags": "blue"}, lambda data: len(data) == 3),
            (f"{article}/tags/remove", {"tags": "blue"}, lambda data: len(data) == 2),
            (f"{article}/tags/set", {"tags": "red"}, lambda data: len(data) == 1),
            (f"{article}/tags/similar", None, lambda data: data == []),
            (f"{article}/tags/clear", None, lambda data: data == []),
            (f"{article}/delete", None, lambda data: data == {"pk": self.article.pk}),
        ]:
            with self.subTest(path_):
                data = self.post(path_, sent)["data"]
                self.assertTrue(is_right(data), data)

    def test_a_function_comes_before_a_form_and_a_form_before_create(self):
        for name in ("Category", "Hello"):
            self.serve(form_named(name), authenticate=yes)
        self.assertEqual(self.post("shop/hello")["data"], {"hello": "world"})
        self.assertEqual(self.post("shop/category")["data"], {})
        self.assertIn("pk", self.post("shop/category/create", {"title": "New"})["data"])

    def test_every_pattern_has_a_name(self):
        for name, words in [
            ("endpoint", ["app", "name"]),
            ("model", ["app", "model", "operation"]),
            ("record", ["app", "model", "pk", "operation"]),
            ("tags", ["app", "model", "pk", "tags", "command"]),
        ]:
            url = f"/ajax/{'/'.join(words)}.json"
            self.assertEqual(reverse(f"ajax:{name}", args=words), url)
            kwargs = dict(zip(words, words, strict=True))
            self.assertEqual(reverse(f"ajax:{name}", kwargs=kwargs), url)

    def test_other_methods_than_post_are_a_405_without_any_query(self):
        paths = ["shop/hello", "shop/category/1/get", "no/such/thing", "a/b/1/tags/add"]
        methods = ["get", "head", "put", "patch", "delete", "options"]
        for method, path_ in itertools.product(methods, paths):
            with self.subTest(method=method, path=path_), self.assertNumQueries(0):
                response = getattr(self.client, method)(f"/ajax/{path_}.json")
                headers = (response["Allow"], response["Content-Type"])
                self.assertEqual(headers, ("POST", "application/json"))
                self.assertEqual(response.status_code, 405)
        reply = self.client.get("/ajax/shop/hello.json").json()
        self.assertIn("POST", reply["data"]["message"])

    def test_a_path_that_leads_nowhere_is_a_json_404(self):
        article, category = self.path, f"shop/category/{self.news.pk}"
        no_endpoint = [
            "nothing",
            "nowhere/hello",
            "SHOP/hello",
            "test_ajax/hello",
            "shop/nothing",
            "shop/models",
            "shop/Article",
            "shop/nothing/list",
            "shop/nothing/1/get",
            # Only whole segments match.
            "x/shop/hello",
            "xshop/hello",
            "shop/xhello",
            "shop/hellox",
            "shop/hello/x",
            "shop/hello.json",
            "/shop/hello",
            "shop//hello",
            "shop/hello%0a",
            "shop/ hello",
            "shop/article/list/x/y/z/0",
            f"{category}//get",
        ]
        no_operation = [
            "shop/article/nothing",
            f"{article}/nothing",
            f"{article}/list",
            f"{article}/tags",
            f"{article}/tags/nothing",
            f"{article}/tags/__init__",
            f"{article}/title/add",
            f"{article}/nothing/add",
            f"{category}/tags/add",
        ]
        messages = dict.fromkeys(no_endpoint, NO_ENDPOINT)
        messages |= dict.fromkeys(no_operation, NO_OPERATION)
        for path_, message in messages.items():
            with self.subTest(path_):
                reply = self.post(path_, status=404)
                self.assertEqual(reply["data"], {"code": 404, "message": message})

    @override_settings(ROOT_URLCONF=(path("", include("ajax")),))
    def test_at_the_root_only_paths_that_end_in_json_are_answered(self):
        for end in ["", "/", ".json/", ".jsonx", ".json%0A", ".JSON", "/static.css"]:
            with self.subTest(end):
                response = self.client.post(f"/shop/hello{end}")
                self.assertEqual(response.status_code, 404)
                self.assertNotEqual(response["Content-Type"], "application/json")
        reply = self.client.post("/shop/hello.json").json()
        self.assertEqual(reply, {"success": True, "data": {"hello": "world"}})
        for path_ in ("nothing", "a/b/c/d/e/f"):
            reply = self.client.post(f"/{path_}.json").json()
            data = {"code": 404, "message": NO_ENDPOINT}
            self.assertEqual(reply, {"success": False, "data": data})

    def test_a_pk_that_does_not_parse_is_a_record_that_does_not_exist(self):
        key = Winery.objects.create(name="Hill").pk
        Country.objects.create(code="de", name="Germany")
        Country.objects.create(code="a/", name="A slash cannot be addressed")
        Category.objects.create(pk=-5, title="Below")
        Category.objects.create(pk=10, title="Ten")
        for path_, pk in [
            ("category/10", 10),
            ("category/-5", -5),
            ("country/de", "de"),
            (f"winery/{key}", str(key)),
            (f"winery/{key.hex}", str(key)),
            (f"winery/{str(key).upper()}", str(key)),
        ]:
            with self.subTest(path_):
                self.assertEqual(self.post(f"shop/{path_}/get")["data"]["pk"], pk)
        for model, pks in [
            ("category", ["x", "1.5", "-1", "0x1", "1_0", "+10", "%2010", "10%0A"]),
            ("category", ["%D9%A1%D9%A0", "None", "%00", "%ED%A0%80", "9" * 19]),
            ("category", [999999, "9" * 9000]),
            ("country", ["zz", "z" * 500, "%00", "%FF"]),
            ("winery", ["1", "x", "%00", uuid.uuid4()]),
        ]:
            for pk, operation in itertools.product(pks, ["get", "update", "delete"]):
                with self.subTest(model=model, pk=pk, operation=operation):
                    reply = self.post(f"shop/{model}/{pk}/{operation}", status=404)
                    message = f'(?is)^{model} with id of ".*" not found.$'
                    self.assertRegex(reply["data"]["message"], message)
        reply = self.post("shop/country/a%2F/get", status=404)
        self.assertEqual(reply["data"]["message"], NO_ENDPOINT)

    def test_a_model_is_found_under_its_own_app_and_under_its_endpoints(self):
        group = Group.objects.create(name="editors")
        self.serve(Group, can_list=yes, fields=["name"])
        for label in ("auth", "shop"):
            data = self.post(f"{label}/group/list")["data"]
            self.assertEqual(data, [{"pk": group.pk, "name": "editors"}])
        reply = self.post("taggit/group/list", status=404)
        self.assertEqual(reply["data"]["message"], NO_ENDPOINT)

    @isolate_apps("test_ajax")
    def test_two_models_on_one_path_are_an_error_that_names_both(self):
        meta = type("Meta", (), {"app_label": "taggit"})
        same = type("Article", (models.Model,), {"__module__": __name__, "Meta": meta})
        for name in ("taggit.Article", "shop.Article", " shop/article.json"):
            with self.assertRaisesMessage(ajax.AlreadyRegistered, name):
                ajax.endpoint.register(same, ArticleEndpoint)
        self.assertFalse(ajax.endpoint.is_registered(same))

    # The registry

    def test_a_model_or_form_is_served_from_register_until_unregister(self):
        registry, form = ajax.endpoint, form_named("BerthForm")
        for served, named, *classes in [
            (Vehicle, "shop.Vehicle"),
            (Vehicle, "shop.Vehicle", OpenEndpoint),
            (form, "BerthForm"),
            (form, "BerthForm", ajax.FormEndpoint),
        ]:
            path_ = f"shop/{served.__name__.lower()}"
            with self.subTest(served, classes=classes):
                registry.register(served, *classes)
                message = f"{named} is registered already"
                with self.assertRaisesMessage(ajax.AlreadyRegistered, message):
                    registry.register(served)
                self.assertTrue(registry.is_registered(served))
                self.post(path_)
                registry.unregister(served)
                with self.assertRaisesMessage(ajax.NotRegistered, named):
                    registry.unregister(served)
                self.assertFalse(registry.is_registered(served))
                self.post(path_, status=404)

    @isolate_apps("test_ajax")
    @override_settings(SHOP_PILOT="auth.User")
    def test_register_refuses_what_it_cannot_serve_and_skips_swapped_models(self):
        class Berth(models.Model):
            pk = models.CompositePrimaryKey("dock", "number")
            dock, number = models.IntegerField(), models.IntegerField()

        class Pilot(models.Model):
            class Meta:
                swappable = "SHOP_PILOT"

        for served, endpoint_class, word in [
            (taggit.TagBase, ajax.ModelEndpoint, "TagBase"),  # Abstract.
            (Berth, ajax.ModelEndpoint, "shop.Berth"),
            (Vehicle, ajax.FormEndpoint, "ModelEndpoint"),
            (form_named("BerthForm"), ajax.ModelEndpoint, "FormEndpoint"),
            (form_named("LostForm", "nowhere"), ajax.FormEndpoint, "LostForm"),
            ("Vehicle", ajax.ModelEndpoint, "'Vehicle'"),
            ((), ajax.ModelEndpoint, "neither a model nor a form"),
            (int, ajax.ModelEndpoint, "neither a model nor a form"),
        ]:
            with self.subTest(word):
                with self.assertRaisesMessage(ImproperlyConfigured, word):
                    ajax.endpoint.register(served, endpoint_class)
                self.assertFalse(ajax.endpoint.is_registered(served))
        ajax.endpoint.register(Pilot)
        self.assertFalse(ajax.endpoint.is_registered(Pilot))
        self.post("shop/pilot", status=404)

    # The apps' endpoints.py

    def test_a_constructor_with_keywords_passes_all_on(self):
        def init(self, application, model, method, **kwargs):
            ajax.ModelEndpoint.__init__(self, application, model, method, **kwargs)

        self.serve(Article, __init__=init)
        self.post(f"{self.path}/get")
        tags = self.post(f"{self.path}/tags/add", {"tags": "new"})["data"]
        self.assertIn("new", [tag["name"] for tag in tags])

    def test_endpoints_are_imported_once_while_other_requests_wait(self):
        source = """
            import threading
            from django.test import Client
            from test_ajax import ask
            ask.imported()
            answers = []
            def call():
                answers.append(Client().post("/ajax/zoo/hello.json").status_code)
            thread = threading.Thread(target=call)
            thread.start()
            thread.join(0.1)
            early = [*answers]
            def hello(request):
                return "hi"
            def told(request):
                thread.join()
                return [early, answers]
            """
        imported = mock.patch.object(ask, "imported", create=True)
        with self.apps(zoo=source), imported as imported:
            imported.assert_not_called()
            for _ in range(2):
                self.assertEqual(self.post("zoo/told")["data"], [[], [200]])
            imported.assert_called_once_with()

    def test_a_broken_endpoints_module_is_a_500_everywhere_and_fails_check(self):
        for broken, reason in [
            ("1 / 0", "division by zero"),
            ("import no_such_module", "no_such_module"),
            ("def hello(:", "invalid syntax"),
            ("raise SystemExit('on purpose')", "on purpose"),
            ("__import__('fractions').Fraction('no')", "Invalid literal"),
            ("__import__('json').loads('no')", "Expecting value"),
            ("open('/nowhere/settings.json')", "No such file"),
        ]:
            source = f"def fine(request): pass\n{broken}\n"
            with self.subTest(broken), self.apps(zoo=source):
                with contextlib.suppress(SystemExit):
                    self.client.post("/ajax/zoo/fine.json")
                    self.assertNotIn("Exit", broken)  # It ends the process, once.
                for path_ in ["shop/hello", "shop/category/list", "zoo/fine", "no"]:
                    with self.assertLogs("django.request") as logs:
                        self.post(path_, status=500)
                    (line,) = logs.output
                    self.assertIn(reason, line)
                self.assertEqual(self.client.get("/ajax/a/b.json").status_code, 405)
                with self.assertRaisesMessage(SystemCheckError, "ajax.E001") as caught:
                    call_command("check")
                message = str(caught.exception)
                self.assertRegex(message, r"zoo.endpoints\.py\W+(line )?2\b")
                self.assertIn(reason, message)
                # A sentence, not the repr of an exception.
                self.assertNotRegex(message, r"\b(\w+Error|SystemExit)\(")
        self.post("shop/hello")

    def test_a_broken_endpoints_module_leaves_both_registries_unchanged(self):
        source = """
            import ajax
            from django.contrib.auth.models import Group
            from test_ajax import Article, Category, Country
            ajax.endpoint.register(Group)
            ajax.endpoint.unregister(Article)
            ajax.encoder.register(Category, ajax.IncludeEncoder(include=["pk"]))
            ajax.encoder.unregister(Country)
            ajax.encoder.encode(Category(title="read meanwhile"))
            1 / 0
            """
        self.register_encoder(Country, ajax.IncludeEncoder(include=["name"]))
        with self.apps(zoo=source):
            self.post("shop/hello", status=500)
            self.assertFalse(ajax.endpoint.is_registered(Group))
            self.assertTrue(ajax.endpoint.is_registered(Article))
            self.assertFalse(ajax.encoder.is_registered(Category))
            self.assertTrue(ajax.encoder.is_registered(Country))
        self.assertEqual(self.shown(self.article)["category"]["title"], "Local")

    def test_this_module_is_never_an_apps_endpoints_module(self):
        names = [name for name in vars(ajax) if not name.startswith("_")]
        sources = {
            "zoo": "import sys, ajax; sys.modules[__name__] = ajax",
            "farm": "def dispatch(request): return 'Only a function of this name.'",
        }
        with self.apps(**sources):
            reply = self.post("farm/dispatch")
            self.assertEqual(reply["data"], "Only a function of this name.")
            for label, name in itertools.product(["ajax", "zoo"], names):
                with self.subTest(f"{label}/{name}"):
                    reply = self.post(f"{label}/{name}", status=404)
                    self.assertEqual(reply["data"]["message"], NO_ENDPOINT)

    def test_the_autoreloader_watches_the_endpoints_of_every_app(self):
        # The autoreloader does not watch a module that failed to import.
        with self.apps(zoo="1 / 0", farm=""):
            reloader = mock.Mock(spec=BaseReloader, directory_globs={})
            autoreload_started.send(sender=reloader)
            watched = [call.args for call in reloader.watch_dir.mock_calls]
            watched = {(Path(folder), pattern) for folder, pattern in watched}
            for config in apps.get_app_configs():
                if config.name != "ajax":
                    self.assertIn((Path(config.path), "endpoints.py"), watched)

    def test_messages_are_translated_when_sent(self):
        translated = mock.patch.object(translation._trans, "gettext", "<{}>".format)
        for path_, status in [
            ("shop/nothing", 404),
            ("shop/category/0/get", 404),
            ("shop/category", 400),
            (f"{self.path}/nothing", 404),
            (f"{self.path}/tags/add", 400),
        ]:
            with self.subTest(path_), translated:
                reply = self.post(path_, status=status)
                self.assertTrue(reply["data"]["message"].startswith("<"), reply)

    # The mount

    def test_what_the_path_of_the_mount_captures_changes_nothing(self):
        calls = {
            "shop/hello": {"hello": "world"},
            "shop/article/count": 1,
            f"{self.path}/delete": {"pk": self.article.pk},
        }
        names = ("app", "name", "model", "pk", "operation", "tags", "command", "names")
        for name in names:
            mount = path(f"<str:{name}>/", include("ajax"))
            fixed = path("5/", include("ajax"), {name: "5"})
            for urls in [(mount,), (fixed,)]:
                with self.subTest(urls=urls), self.settings(ROOT_URLCONF=urls):
                    for path_, data in calls.items():
                        with transaction.atomic():
                            response = self.client.post(f"/5/{path_}.json")
                            transaction.set_rollback(True)
                        self.assertEqual(response.json()["data"], data)
                    for path_ in ("shop/category/list", "shop/category", "x"):
                        response = self.client.post(f"/5/{path_}.json")
                        expected = {"list": 200, "category": 400, "x": 404}
                        status = expected[path_.rpartition("/")[2]]
                        self.assertEqual(response.status_code, status)

    @override_settings(DEBUG=True)
    def test_below_a_mount_that_captures_the_pages_are_served(self):
        for mount in (
            re_path("^(?P<name>[^/]+)/", include("ajax")),
            re_path("^([^/]+)/", include("ajax")),
        ):
            with self.settings(ROOT_URLCONF=(mount,)):
                for name in ("", "client.js", "explorer.js", "openapi.json"):
                    with self.subTest(mount=mount, name=name):
                        response = self.client.get(f"/5/{name}")
                        self.assertEqual(response.status_code, 200)
                response = self.client.post("/5/nothing.json")
                self.assertEqual(response.json()["data"]["message"], NO_ENDPOINT)

    @override_settings(ROOT_URLCONF=(path("<int:pk>/", include("ajax")),))
    def test_below_a_mount_that_captures_names_can_be_reversed(self):
        for name, words in [
            ("endpoint", ["app", "name"]),
            ("model", ["app", "model", "operation"]),
        ]:
            kwargs = dict(zip(words, words, strict=True))
            url = reverse(f"ajax:{name}", kwargs={"pk": 5, **kwargs})
            self.assertEqual(url, f"/5/{'/'.join(words)}.json")
        self.assertEqual(reverse("ajax:client", kwargs={"pk": 5}), "/5/client.js")
        self.assertEqual(reverse("ajax:explorer", kwargs={"pk": 5}), "/5/")
        self.assertEqual(reverse("ajax:openapi", args=[5]), "/5/openapi.json")

    def test_the_pages_answer_other_methods_than_get_with_a_405(self):
        self.client = Client(enforce_csrf_checks=True)
        for name in ("", "client.js", "explorer.css", "openapi.json"):
            for method in ("post", "put", "delete", "options"):
                with self.subTest(name, method=method):
                    response = getattr(self.client, method)(f"/ajax/{name}")
                    self.assertEqual(response.status_code, 405)
                    self.assertEqual(response["Allow"], "GET, HEAD")
                    data = {"code": 405, "message": "Send a GET request."}
                    self.assertEqual(response.json()["data"], data)

    def test_debug_tells_that_json_is_sent_twice(self):
        for path_ in [
            "shop/hello",
            "shop/category",
            "shop/nothing",
            "shop/category/list",
            f"{self.path}/get",
            f"{self.path}/tags/clear",
            "a/b/c/d/e/f",
        ]:
            for debug in (True, False):
                with self.subTest(path_, debug=debug), self.settings(DEBUG=debug):
                    reply = self.post(f"{path_}.json", status=404)
                    self.assertEqual(reply["data"]["message"], NO_ENDPOINT)
                    hint = "Leave .json off: the path has it twice."
                    self.assertEqual(reply.get("hint"), hint if debug else None)

    def test_a_stored_key_may_be_one_that_its_validators_refuse(self):
        for slug in ("two words", "caf\u00e9", "a.json", " "):
            with self.subTest(slug):
                Genre.objects.create(slug=slug)
                path_ = f"shop/genre/{quote(slug)}"
                self.assertEqual(self.post(f"{path_}/get")["data"]["pk"], slug)
                self.post(f"{path_}/tags/add", {"tags": "a"})
                self.post(f"{path_}/update", {"tags": ["b"]})
                self.post(f"{path_}/delete")
                self.post(f"{path_}/get", status=404)
        self.errors("shop/genre", {"slug": "two words"})
        for slug in ("%00", "%ED%A0%80", "a" * 1000):
            self.post(f"shop/genre/{slug}/get", status=404)

    def test_several_models_and_forms_are_unregistered_together(self):
        served = [Vehicle, form_named("QuayForm")]
        ajax.endpoint.register(served)
        self.post("shop/vehicle")
        ajax.endpoint.unregister(served)
        for name in ("vehicle", "quayform"):
            self.post(f"shop/{name}", status=404)
        with self.assertRaisesMessage(ajax.NotRegistered, "shop.Vehicle"):
            ajax.endpoint.unregister(served)

    def test_head_of_the_client_has_the_headers_of_get(self):
        url = "/ajax/client.js"
        shown, asked = self.client.get(url), self.client.head(url)
        for name in ("ETag", "Cache-Control", "Vary", "Content-Type"):
            self.assertEqual(asked[name], shown[name])


# --- Requests -------------------------------------------------------------------------


class Requests(AjaxTestCase):
    """The body as a whole. The values of its keys are tested by `Fields`."""

    JSON = "application/json"
    FORM = "application/x-www-form-urlencoded"
    MULTIPART = "multipart/form-data; boundary=x"

    def part(self, name, text):
        """Return a multipart body of one part."""
        head = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
        return head % name + text + b"\r\n--x--"

    def broken(self):
        """Return content types, broken bodies, and patterns of their messages."""
        at, key, deep = "line 1 column|char", "title|level|column|key 0", "64|deep"
        of_json = [
            (b"{", at),
            (b"[1,]", at),
            (b"'a'", at),
            (b"{a: 1}", at),
            (b" ", at),
            (b"nul", at),
            (b'{"a": 1} x', at),
            (b'{"a"}', at),
            (b'{"a": "\n"}', at),
            (b'{"a": 01}', at),
            (b"\xff", "position"),
            (b'"\xed\xa0\x80"', "position"),
            ('{"a": 1}'.encode("utf-16"), "JSON"),
            (b"\xef\xbb\xbf{}", "JSON"),
            (b"NaN", "JSON"),
            (b'{"title": NaN}', key),
            (b'[{"title": 1e999}]', key),
            (b'{"title": [-Infinity]}', key),
            (b'{"title": 1, "title": 1}', key),
            (b'{"a": 1, "title": 1, "title": 1}', '"title"'),
            (b'[{"b": {"title": 1, "t\\u0069tle": 2}}]', key),
            (b'{"a":' * 65 + b"1" + b"}" * 65, deep),
            (b"[" * 65 + b"]" * 65, deep),
            (b"[" * 100_000, deep),
            (b'{"a":' * 100_000, deep),
            (b'{"a": -' + b"1" * 5000 + b"}", "JSON"),
            (b'{"title": "\\u0000"}', key),
            (b'{"title": {"level": [1, ["a\\udfffb"]]}}', key),
            (b'{"title": {"level \\u0000": 1}}', key),
            (b'{"title\\ud800": 1}', key),
        ]
        text, multipart = self.part(b"title", b"\xe9"), "multipart/form-data; boundary"
        file = self.part(b'title"; filename="a', b"1")
        text_and_file = self.part(b"title", b"a\0").removesuffix(b"--x--") + file
        of_forms = [
            (self.FORM, b"title=%00", key),
            (self.FORM, b"title=A&title=b%00", key),
            (self.FORM, b"title%00=A", key),
            (self.FORM, b"title=%ff", "."),
            (self.FORM, b"title=\xff", "."),
            (self.MULTIPART, self.part(b"title", b"a\0"), key),
            (self.MULTIPART, text_and_file, key),
            (self.MULTIPART, self.part(b"title\0", b"a"), "."),
            (multipart, b"x", "."),
            (f"{multipart}=", b"x", "."),
            (f"{multipart}=\xe9", b"x", "."),
            (f"{multipart}={'x' * 300}", b"x", "."),
            (f"{self.FORM}; charset=latin-1", b"title=%e9", "UTF-8"),
            (f"{self.JSON}; charset=utf-16", b"\xff\xfe{\0}\0", "UTF-8"),
        ]
        # Some of Python's codecs are not for text, and some are very slow.
        for codec in ("base64", "rot13", "zlib", "idna", "undefined", "punycode"):
            of_forms.append((f"{self.MULTIPART}; charset={codec}", text, "UTF-8"))
        return [*[(self.JSON, *row) for row in of_json], *of_forms]

    def test_a_broken_body_is_a_400_that_says_where(self):
        called, one = mock.Mock(), f"article/{self.article.pk}"
        self.serve(Article, prepare_record=called, get_queryset=called, can_get=called)
        with mock.patch.object(ask, "answer", called, create=True):
            for content_type, body, where in self.broken():
                for path in [
                    "ask",
                    "contactform",
                    "category",
                    "article/list",
                    "article/count",
                    f"{one}/get",
                    f"{one}/update",
                    f"{one}/delete",
                    f"{one}/publish",
                    f"{one}/tags/add",
                ]:
                    with self.subTest(path, type=content_type, body=body[:50]):
                        status, reply = self.send(f"shop/{path}", body, content_type)
                        self.assertEqual(status, 400, reply)
                        self.assertRegex(reply["data"]["message"], where)
        called.assert_not_called()

    def test_the_replacement_character_is_text_however_it_is_sent(self):
        title = "a\ufffd"
        for content_type, body in [
            (self.JSON, json.dumps({"title": title}).encode()),
            (self.FORM, urlencode({"title": title}).encode()),
            (self.MULTIPART, self.part(b"title", title.encode())),
        ]:
            with self.subTest(content_type):
                status, reply = self.send("shop/category", body, content_type)
                self.assertEqual((status, reply["data"]["title"]), (200, title))

    def test_json_within_the_limits_passes(self):
        for body in (
            b"[" * 64 + b"]" * 64,
            b'{"a":' * 64 + b"1" + b"}" * 64,
            b"\t\n{} ",
            b"[" + b"{}," * 99_999 + b'"\\ud83d\\ude00"]',
            b"-12345678901234567890",
        ):
            with self.subTest(body[:20]):
                sent = {"data": body, "content_type": self.JSON}
                reply = self.ask(lambda r: r.data == json.loads(r.body), **sent)
                self.assertIs(reply["data"], True)

    def test_json_in_the_text_of_a_form_follows_the_same_rules(self):
        path = f"shop/specimen/{Specimen.objects.create().pk}/update"
        for text in [
            '"\\u0000"',
            '{"a": ["b\\u0000"]}',
            '{"\\u0000": 1}',
            '"\\ud800"',
            '[{"\\udfff": 1}]',
            "NaN",
            "[1e999]",
            '{"a": 1, "a": 2}',
            "[",
            "[" * 65 + "]" * 65,
            "[" * 100_000,
            "1" * 5000,
        ]:
            for path_ in [path, "shop/specimenform", "shop/pollform"]:
                with self.subTest(path_, text=text[:20]):
                    sent = {"json": text} | (Forms.poll if "poll" in path_ else {})
                    (key,) = self.errors(path_, sent, form=True)
                    known = {"json"} if path_ == path else {"json", "__all__"}
                    self.assertIn(key, known)
        # So does the list of which tags and members are made.
        for key, text in itertools.product(
            ("tags", "keepers"), ('["\\u0000"]', "[NaN]", "[" * 65 + "]" * 65)
        ):
            with self.subTest(key, text=text[:20]):
                self.assertEqual([*self.errors(path, {key: text}, form=True)], [key])
        self.assertEqual([*self.errors(path, {"tags": '["\\ud800"]'})], ["tags"])
        # A text field takes such a text as it is.
        data = self.post(path, {"text": '["\\u0000", NaN]'}, form=True)["data"]
        self.assertEqual(data["text"], '["\\u0000", NaN]')

    def test_request_data_is_the_json_value_or_the_form(self):
        for value in [None, True, 1, 1.5, "text", [], [1, {"a": None}], {"a": [1]}]:
            with self.subTest(value=value):
                sent = {"data": json.dumps(value), "content_type": self.JSON}
                reply = self.ask(lambda r: [r.data, type(r.data).__name__], **sent)
                self.assertEqual(reply["data"], [value, type(value).__name__])
        read = mock.Mock(side_effect=lambda r: [r.data is r.POST, dict(r.data.lists())])
        with mock.patch.object(ask, "answer", read, create=True):
            for content_type, body, form in [
                (self.FORM, b"a=1&a=2", {"a": ["1", "2"]}),
                (self.JSON, b"", {}),
                (self.MULTIPART, self.part(b"a", b"1"), {"a": ["1"]}),
                ("", b"", {}),
            ]:
                reply = self.send("shop/ask", body, content_type)[1]
                self.assertEqual(reply["data"], [True, form])

    def test_a_function_can_read_any_body_and_files(self):
        xml = {"data": "<a/>", "content_type": "text/xml"}
        for read in (lambda r: r.body.decode(), lambda r: r.read().decode()):
            self.assertEqual(self.ask(read, **xml)["data"], "<a/>")
        sent = {"data": {"file": SimpleUploadedFile("a.txt", b"ab")}, "form": True}
        reply = self.ask(lambda r: r.FILES["file"].read().decode(), **sent)
        self.assertEqual(reply["data"], "ab")

    def test_models_and_forms_take_json_and_forms_and_no_other_type(self):
        title, part = b'{"title": "A"}', self.part(b"title", b"A")
        for content_type, body, status in [
            (self.JSON, title, 200),
            ("Application/JSON; charset=UTF-8", title, 200),
            (self.MULTIPART, part, 200),
            (self.FORM, b"title=A", 200),
            ("application/vnd.api+json", title, 415),
            ("application/jsonx", title, 415),
            ("text/plain", title, 415),
            ("nonsense", title, 415),
            ("", title, 415),
        ]:
            with self.subTest(content_type):
                answered, reply = self.send("shop/category", body, content_type)
                self.assertEqual(answered, status, reply)
                answered, reply = self.send("shop/contactform", body, content_type)
                self.assertEqual(answered, 400 if status == 200 else 415, reply)
                self.assertEqual(self.JSON in reply["data"]["message"], answered == 415)
                path = f"shop/category/{self.news.pk}/get"
                self.assertEqual(self.send(path, b"", content_type)[0], 200)

    def test_the_body_is_not_read_before_authentication(self):
        body = mock.Mock(read=mock.Mock(side_effect=OSError("The line is gone.")))
        extra = {"wsgi.input": body, "CONTENT_LENGTH": "9"}
        status, reply = self.send("shop/category", b"{", **extra)
        self.assertEqual((status, reply["data"]["message"]), (400, "The line is gone."))
        body.read.reset_mock()
        asked = mock.Mock(side_effect=lambda request, *_: hasattr(request, "data"))
        self.serve(Category, authenticate=lambda self, *arguments: asked(*arguments))
        for content_type in (self.JSON, self.FORM, self.MULTIPART, "text/plain"):
            with self.subTest(content_type):
                status, reply = self.send("shop/category", b"{", content_type, **extra)
                self.assertEqual(status, 403, reply)
        self.assertEqual(asked.call_count, 4)
        body.read.assert_not_called()

    def test_a_write_of_anything_but_an_object_is_refused_before_any_hook(self):
        names = ["can_create", "can_update", "prepare_record", "get_queryset"]
        asked = {name: mock.Mock() for name in names}
        self.serve(Category, **asked)
        paths = ["shop/category", f"shop/category/{self.news.pk}/update"]
        for value in ([], [{"title": "A"}], "title", 1, True, None):
            for path in [*paths, "shop/contactform", "shop/article/list"]:
                with self.subTest(path, value=value):
                    status, reply = self.send(path, json.dumps(value))
                    self.assertEqual(status, 400, reply)
                    self.assertIn("object", reply["data"]["message"])
        self.assertEqual([name for name in names if asked[name].called], [])

    def test_get_delete_and_custom_operations_take_any_valid_body(self):
        for body in (b"[1]", b'{"unknown": 1}', b"null", b'"text"'):
            record = self.user.articles.create(category=self.news, title="A", price=1)
            for name in ("get", "publish", "delete"):
                with self.subTest(name, body=body):
                    status, _ = self.send(f"shop/article/{record.pk}/{name}", body)
                    self.assertEqual(status, 200)

    def test_an_invalid_content_length_is_a_400(self):
        for length in ("-5", "1.5", "1_0", "9" * 19):
            with self.subTest(length):
                status, reply = self.send("shop/hello", b"{}", CONTENT_LENGTH=length)
                self.assertEqual(status, 400)
                message = "The Content-Length is not a number."
                self.assertEqual(reply["data"]["message"], message)
        status, _reply = self.send("shop/hello", b"{}", CONTENT_LENGTH="9" * 18)
        self.assertEqual(status, 413)

    def assert_too_large(self, status, reply, setting=""):
        """Assert that a reply tells the user what to do, and the developer why."""
        message = "The request is too large. Please send less."
        self.assertEqual((status, reply["data"]["message"]), (413, message))
        self.assertIn(setting, reply.get("hint", ""))
        self.assertEqual("hint" in reply, bool(setting))

    def test_a_request_that_is_too_large_is_a_413(self):
        files = {str(number): SimpleUploadedFile("a", b"") for number in range(4)}
        text = {"a": "1234567890"}
        for path_ in ("shop/category", "shop/hello", "shop/contactform"):
            requests = [
                (9, "MEMORY_SIZE", (b'{"title": 1}', self.JSON)),
                (9, "MEMORY_SIZE", (b"a=12345678", self.FORM)),
                (9, "MEMORY_SIZE", as_multipart(text)),
                (3, "NUMBER_FIELDS", (b"a&b&c&d=1", self.FORM)),
            ]
            for limit, name, sent in requests:
                setting = f"DATA_UPLOAD_MAX_{name}"
                with self.subTest(path_, sent=sent), self.settings(**{setting: limit}):
                    status, reply = self.send(path_, *sent)
                    self.assert_too_large(status, reply)
                    with self.settings(DEBUG=True):
                        status, reply = self.send(path_, *sent)
                        self.assert_too_large(status, reply, setting)
            with self.settings(DATA_UPLOAD_MAX_NUMBER_FILES=3, DEBUG=True):
                reply = self.post(path_, files, form=True, status=413)
                self.assert_too_large(413, reply, "DATA_UPLOAD_MAX_NUMBER_FILES")

    def post_json_part(self, path, data, status=200):
        """POST an object in which bytes are files; return the reply."""
        answered, reply = self.send(path, *as_json_part(data))
        self.assertEqual(answered, status, reply)
        return reply

    def test_an_object_with_files_stores_what_json_would_store(self):
        data = {
            "words": "é",
            "text": "null",
            "tags": ["a b", "c,d"],
            "integer": None,
            "boolean": True,
            "json": [1, {"b": 2}, "5", 2**60],
            "keepers": [self.user.pk, self.other.pk],
            "country": Country.objects.create(code="de").pk,
            "csrfmiddlewaretoken": "x",
        }
        for path in ("specimenform", "specimen"):
            with self.subTest(path):
                twin = self.post(f"shop/{path}", data)["data"]
                made = self.post_json_part(f"shop/{path}", data | {"file": b"1"})
                made = made["data"]
                self.assertRegex(made["file"], r"^/media/specimens/file.*\.txt$")
                self.assertEqual(made | {"pk": twin["pk"], "file": None}, twin)
        self.assertEqual(twin["json"], data["json"])
        path = f"shop/specimen/{made['pk']}/update"
        shown = self.post_json_part(path, made | {"words": "b", "file": b"2"})["data"]
        self.assertNotEqual(shown["file"], made["file"])
        self.assertEqual(shown | {"words": "é", "file": made["file"]}, made)
        # A body without a file is no other one.
        self.post_json_part(path, {"words": "c", "file": None})
        self.assertEqual(Specimen.objects.get(pk=made["pk"]).words, "c")

    def test_request_data_is_the_object_with_its_files(self):
        def read(request):
            files = request.data.pop("plans")
            texts = [file.read().decode() for file in files]
            return [request.data, texts, request.FILES["plan"] is request.data["plan"]]

        sent = {"a": [1, {"b": None}], "plan": b"p", "plans": [b"1", b"2"]}
        with mock.patch.object(ask, "answer", read, create=True):
            reply = self.post_json_part("shop/ask", sent)
        data = {"a": [1, {"b": None}], "plan": "plan.txt"}
        self.assertEqual(reply["data"], [data, ["1", "2"], True])

    def test_lists_of_files_reach_a_form(self):
        class FilesInput(forms.FileInput):
            allow_multiple_selected = True

        class FilesField(forms.FileField):
            widget = FilesInput

            def clean(self, value, initial=None):
                return [super(FilesField, self).clean(file) for file in value]

        class PlansForm(forms.Form):
            plans = FilesField()

            def save(self):
                return [file.size for file in self.cleaned_data["plans"]]

        self.serve(PlansForm)
        for sent, sizes in (([b"1", b"12"], [1, 2]), (b"123", [3])):
            reply = self.post_json_part("shop/plansform", {"plans": sent})
            self.assertEqual(reply["data"], sizes)
        for name in ("plans", "plans[]"):
            files = [SimpleUploadedFile(name, b"1") for name in "ab"]
            reply = self.post("shop/plansform", {name: files}, form=True)
            self.assertEqual(reply["data"], [1, 1])

    def test_a_file_for_another_kind_of_field_is_an_error_of_its_key(self):
        path = f"shop/specimen/{Specimen.objects.create().pk}/update"
        fields = Specimen._meta.get_fields()
        names = [field.name for field in fields if field.name != "id"]
        names = [name for name in names if name in self.post(path)["data"]]
        self.assertIn("json", names)
        for name in set(names) - {"file"}:
            for file in (b"1", [b"1"]):
                with self.subTest(name, file=file):
                    reply = self.post_json_part(path, {name: file}, 400)
                    self.assertEqual([*reply["errors"]], [name])
        reply = self.post_json_part(path, {"file": [b"1"]}, 400)
        self.assertEqual([*reply["errors"]], ["file"])
        reply = self.post_json_part("shop/article/list", {"search": b"1"}, 400)
        self.assertEqual([*reply["errors"]], ["search"])

    def test_a_broken_json_part_is_a_400_that_says_where(self):
        head = "--x\r\nContent-Disposition: form-data; name="
        file = f'{head}"file"; filename="a.txt"\r\n\r\n1\r\n'

        def part(text, name="application/json"):
            return f'{head}"{name}"\r\n\r\n{text}\r\n'

        for body, where in [
            (part(""), "line 1 column 1"),
            (part("{'a': 1}"), "line 1 column 2"),
            (part("[1]"), "has to be a JSON object"),
            (part("null"), "has to be a JSON object"),
            (part('{"words": NaN}'), 'key "words"'),
            (part('{"words": "\\u0000"}'), 'key "words"'),
            (part('{"words": "\\udfff"}'), 'key "words"'),
            (part('{"words": "\0"}'), "application/json"),
            (part('{"a": 1, "a": 1}'), '"a" is sent twice'),
            (part('{"a":' * 65 + "1" + "}" * 65), "too deeply"),
            (part("{}") * 2, "Send only files"),
            (part("{}") + part("1", "words"), "Send only files"),
            (part("{}") + part("1", "words[]"), "Send only files"),
            (part('{"file": null}') + file, '"file" is sent twice'),
            (part("{}") + file * 2, '"file" is sent twice'),
            (part("{}") + file + file.replace('"file"', '"file[]"'), "is sent twice"),
            (part("{}") + file.replace('"file"', '"fi\0le"'), "cannot be stored"),
        ]:
            for path in ("ask", "contactform", "specimen", "specimen/list"):
                with self.subTest(path, body=body[:90]):
                    body_ = f"{body}--x--\r\n".encode()
                    status, reply = self.send(f"shop/{path}", body_, self.MULTIPART)
                    self.assertEqual(status, 400, reply)
                    self.assertIn(where, reply["data"]["message"])
        # The page's token may stand beside it, and a file may have its name.
        body = part('{"words": "a"}') + part("x", "csrfmiddlewaretoken")
        body = f"{body}--x--\r\n".encode()
        status, reply = self.send("shop/specimen", body, self.MULTIPART)
        self.assertEqual((status, reply["data"]["words"]), (200, "a"))
        body = file.replace('"file"', '"application/json"') + part("a", "words")
        body = f"{body}--x--\r\n".encode()
        _status, reply = self.send("shop/specimen", body, self.MULTIPART)
        self.assertEqual([*reply["errors"]], ["application/json"])
        # In a form of another type it is a key like any other.
        reply = self.send("shop/specimen", urlencode({self.JSON: "{}"}), self.FORM)[1]
        self.assertEqual([*reply["errors"]], ["application/json"])

    def test_a_forms_key_with_and_without_brackets_is_one(self):
        path = f"shop/specimen/{Specimen.objects.create().pk}/update"
        pks = [self.user.pk, self.other.pk]
        sent = urlencode(dict(zip(("keepers", "keepers[]"), pks, strict=True)))
        _status, reply = self.send(path, sent, self.FORM)
        self.assertEqual(reply["data"]["keepers"], pks)

    def test_a_json_part_counts_as_the_other_texts_of_a_form_do(self):
        sent = as_json_part({"words": "x" * 20})
        for limit, status in ((60, 200), (30, 413)):
            with self.settings(DATA_UPLOAD_MAX_MEMORY_SIZE=limit):
                self.assertEqual(self.send("shop/specimen", *sent)[0], status)


# --- Responses ------------------------------------------------------------------------

import gc
from http import HTTPStatus

from django.core.signals import got_request_exception
from django.db.utils import DatabaseError, DataError, OperationalError
from django.urls import Resolver404
from django.utils.functional import lazy
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy


def atomic_requests(wanted=True):
    return mock.patch.dict(connections.settings["default"], ATOMIC_REQUESTS=wanted)


@contextlib.contextmanager
def database_in(zone):
    """Store date-times in a time zone, as DATABASES may say."""
    with mock.patch.dict(connection.settings_dict, TIME_ZONE=zone):
        with mock.patch.dict(vars(connections["default"])) as kept:
            kept.pop("timezone", None)
            kept.pop("timezone_name", None)
            yield


class Responses(AjaxTestCase):
    def test_an_endpoint_may_return_any_of_these_values(self):
        news = {"pk": self.news.pk, "title": "News", "parent": None}
        day, key = datetime.date(2024, 5, 6), uuid.UUID(int=7)
        moment = datetime.datetime(2024, 5, 6, 7, 8, 9, 5, datetime.timezone.utc)
        queryset = Category.objects.filter(pk=self.news.pk)
        for value, expected in [
            ({"a": [1, None]}, {"a": [1, None]}),
            ("text", "text"),
            (True, True),
            (mark_safe("<b>"), "<b>"),
            (None, None),
            (1.5, 1.5),
            (float("nan"), None),
            (self.news, news),
            ([self.news], [news]),
            ({self.news}, [news]),
            ({"a": self.news, "b": [None, self.news]}, {"a": news, "b": [None, news]}),
            (queryset, [news]),
            (queryset.none(), []),
            (queryset.iterator(), [news]),
            (queryset.values_list("title", flat=True), ["News"]),
            (queryset.values("title"), [{"title": "News"}]),
            ((n for n in (1, self.news)), [1, news]),
            (-(2**53), str(-(2**53))),
            ({1: "a", None: "b", day: "c"}, {"1": "a", "null": "b", "2024-05-06": "c"}),
            ({3}, [3]),
            ((1, 2), [1, 2]),
            (range(2), [0, 1]),
            (day, "2024-05-06"),
            (gettext_lazy("Yes"), "Yes"),
            ({gettext_lazy("No"): 1}, {"No": 1}),
            (moment, "2024-05-06T07:08:09.000005Z"),
            (datetime.time(7, 8), "07:08:00"),
            (datetime.timedelta(days=1, seconds=5), "P1DT00H00M05S"),
            (key, str(key)),
            (enum.Enum("Colour", {"RED": "red"}).RED, "red"),
            (Decimal("9.50"), "9.50"),
            (b"\xff", "/w=="),
            ("\ud800", "\ud800"),
        ]:
            with self.subTest(value=value):
                data = self.ask(lambda request, value=value: value)["data"]
                self.assertEqual(data, expected)
                self.assertIs(type(data), type(expected))

    def test_metadata_stands_beside_data_and_replaces_nothing(self):
        metadata = {"total": Decimal(2), "success": False, "data": "no"}
        reply = self.ask(lambda r: ajax.EnvelopedResponse({self.news.pk}, metadata))
        self.assertEqual(reply, {"success": True, "data": [self.news.pk], "total": "2"})
        reply = self.ask(lambda request: ajax.EnvelopedResponse(1, {}))
        self.assertEqual(reply, {"success": True, "data": 1})

    def test_an_ajax_error_may_be_raised_or_returned(self):
        extra = {"more": Decimal("1"), "success": True, "data": 5}
        for code in (400, 409, 418, 429, 499, 500, 503, 599):
            error = ajax.AJAXError(code, gettext_lazy("No"), **extra)
            data = {"code": code, "message": "No"}
            for answer in (error, lambda r, error=error: error):
                with self.subTest(code):
                    reply = {"success": False, "data": data, "more": "1"}
                    self.assertEqual(self.ask(answer, code), reply)

    def test_a_response_that_an_endpoint_makes_is_sent_unchanged(self):
        plain = {"content_type": "text/plain"}
        for answer, status, kind, content in [
            (HttpResponse("<p>", status=201), 201, "text/html", b"<p>"),
            (HttpResponse("a,b", "text/csv"), 200, "text/csv", b"a,b"),
            (HttpResponse("no", status=500), 500, "text/html", b"no"),
            (http.HttpResponseRedirect("/there/"), 302, "text/html", b""),
            (http.StreamingHttpResponse("ab", **plain), 200, "text/plain", b"ab"),
            (http.FileResponse(["pdf"], **plain), 200, "text/plain", b"pdf"),
        ]:
            make = mock.Mock(return_value=answer)
            with self.subTest(status=status, kind=kind):
                with mock.patch.object(ask, "answer", make, create=True):
                    response = self.client.post("/ajax/shop/ask.json")
                self.assertEqual(response.status_code, status)
                self.assertEqual(response["Content-Type"].split(";")[0], kind)
                self.assertEqual(response.getvalue(), content)

    def test_each_situation_has_its_status_and_message(self):
        held = Supplier.objects.create(name="Held")
        Offer.objects.create(article=self.article, supplier=held)
        invalid = "^Please correct the errors.$"
        for path, sent, status, message in [
            ("shop/article/0/get", {}, 404, '^Article with id of "0" not found.$'),
            ("shop/note/get", {}, 400, "record"),
            ("shop/category", {}, 400, invalid),
            ("shop/note/update", {}, 400, "record"),
            ("shop/note/delete", {}, 400, "record"),
            (f"{self.path}/update", {"wheels": 4}, 400, invalid),
            (f"{self.path}/update", {"price": "dear"}, 400, invalid),
            (f"{self.path}/update", {"category": 0}, 400, invalid),
            (f"shop/supplier/{held.pk}/delete", {}, 409, "in use"),
        ]:
            with self.subTest(path, sent=sent):
                reply = self.post(path, sent, status=status)
                self.assertRegex(reply["data"]["message"], message)
                if message == invalid:
                    self.assertEqual(list(reply["errors"]), [*sent] or ["title"])

    def test_a_403_names_the_hook_that_refused_in_debug(self):
        article, sent = self.path, {"category": self.news.pk}
        for hook, path in [
            ("can_list", "shop/article/list"),
            ("can_create", "shop/article"),
            ("can_update", f"{article}/update"),
            ("can_delete", f"{article}/delete"),
            ("can_update", f"{article}/tags/clear"),
            ("can_get", f"{article}/get"),
            ("can_get", f"{article}/publish"),
            ("can_get", f"{article}/tags/similar"),
            ("authenticate", f"{article}/get"),
        ]:
            self.serve(Article, **{hook: no})
            for debug in (True, False):
                with self.subTest(path, debug=debug), self.settings(DEBUG=debug):
                    reply = self.post(path, sent, status=403)
                    self.assertEqual(reply["data"]["message"], "You may not do this.")
                    self.assertNotIn("login_url", reply)
                    hint = f"{hook} of ArticleEndpoint returned False"
                    self.assertRegex(reply.get("hint", ""), hint if debug else "^$")
                    if hook in ("can_create", "can_update") and "tags" not in path:
                        # An unreadable value changes nothing about the reply.
                        bad = self.post(path, sent | {"author": "x"}, status=403)
                        self.assertEqual(bad, reply)

    @override_settings(LOGIN_URL="/come/in/")
    def test_a_403_tells_visitors_where_to_log_in(self):
        self.client.logout()
        for path in (f"{self.path}/get", "shop/whoami", "shop/pollform"):
            reply = self.post(path, status=403)
            self.assertEqual(reply["data"]["message"], "Please log in.")
            self.assertEqual(reply["login_url"], "/come/in/")

    def test_each_exception_has_its_status_and_is_logged_once(self):
        """An unexpected exception also sends Django's signal."""
        signals = []

        def receiver(request, **kwargs):
            signals.append((request.path, sys.exc_info()[0]))

        self.receive(got_request_exception, receiver)
        gone = transaction.atomic(lambda r: Note(pk=0).save(update_fields=["text"]))
        later, extra = ajax.AJAXError(503, "Later."), {"more": object()}
        big, many = exceptions.RequestDataTooBig, exceptions.TooManyFilesSent
        denied, broken = exceptions.PermissionDenied, "Internal server error."
        used = "The record conflicts with another one, is in use, or is gone. "
        used += "Please reload the page."
        unclear = "This cannot be processed. Please check what you entered."
        for answer, status, message in [
            (Http404("No such cup."), 404, "No such cup."),
            (Http404("There is no settings.html."), 404, "There is no settings.html."),
            (Resolver404({"path": "secret", "tried": ["secret"]}), 404, mock.ANY),
            (Http404(), 404, "Not found."),
            (denied("Hands off."), 403, "Hands off."),
            (denied(), 403, "You may not do this."),
            (exceptions.SuspiciousOperation("Hm."), 400, "Hm."),
            (exceptions.DisallowedHost("Who?"), 400, "Who?"),
            (exceptions.BadRequest("What?"), 400, "What?"),
            (later, 503, "Later."),
            (ValidationError("Too hot."), 400, "Too hot."),
            (big("Big."), 413, "Big."),
            (models.ProtectedError("secret", {self.news}), 409, used),
            (models.RestrictedError("secret", {self.news}), 409, used),
            (gone, 409, used),
            (many("Many."), 413, "Many."),
            (exceptions.TooManyFieldsSent("Much."), 413, "Much."),
            (many(), 413, "The request is too large. Please send less."),
            (exceptions.SuspiciousFileOperation("secret"), 400, unclear),
            (KeyError("secret"), 500, broken),
            (ajax.AJAXError(400, "No", **extra), 500, broken),
            (lambda r: ajax.EnvelopedResponse(1, extra), 500, broken),
            (lambda r: [{object()}], 500, broken),
            (lambda r: object(), 500, broken),
            (lambda r: (1 / 0 for n in [1]), 500, broken),
        ]:
            signals.clear()
            with self.subTest(repr(answer)), self.assertLogs("django.request") as logs:
                reply = self.ask(answer, status)
                self.assertEqual(reply["data"]["message"], message)
                self.assertNotIn("secret", json.dumps(reply))
                (record,) = logs.records
                level = "ERROR" if status >= 500 else "WARNING"
                self.assertEqual(record.levelname, level)
                self.assertEqual(record.status_code, status)
                self.assertEqual(record.request.path, "/ajax/shop/ask.json")
                kinds = [record.exc_info[0]] if status == 500 else []
                expected = [("/ajax/shop/ask.json", kind) for kind in kinds]
                self.assertEqual(signals, expected)

    def test_a_hint_tells_what_conflicts_or_refers_to_a_record(self):
        refers = "They are referenced through protected foreign keys: 'Post.category'."
        unique = "UNIQUE constraint failed: shop_note.text"
        for error, status, hint in (
            (models.ProtectedError(refers, {self.news}), 409, refers),
            (IntegrityError(unique), 409, unique),
            (OverflowError("Python int too large"), 400, "Python int too large"),
        ):
            with self.settings(DEBUG=True), self.assertLogs("django.request"):
                self.assertEqual(self.ask(error, status)["hint"], hint)
            with self.assertLogs("django.request"):
                self.assertNotIn("hint", self.ask(error, status))
        with self.settings(DEBUG=True), self.assertLogs("django.request"):
            self.assertNotIn("hint", self.ask(IntegrityError(), 409))

    def test_each_database_error_has_its_status_and_shows_no_sql(self):
        for kind, arguments, code, status in [
            (IntegrityError, ["INSERT secret"], {}, 409),
            (DataError, ["SELECT secret"], {}, 400),
            (OperationalError, ["index row of secret"], {"sqlstate": "54000"}, 400),
            (OperationalError, [1366, "Incorrect string value: secret"], {}, 400),
            (OperationalError, [1267, "Illegal mix, secret"], {}, 400),
            (OperationalError, [1292, "Incorrect uuid value: secret"], {}, 400),
            # The texts may be in any language.
            (OperationalError, ["Verklemmung entdeckt"], {"sqlstate": "40P01"}, 503),
            (OperationalError, ["Zugriff, secret"], {"sqlstate": "40001"}, 503),
            (OperationalError, ["konnte Sperre"], {"sqlstate": "55P03"}, 503),
            (OperationalError, ["storniere Anfrage"], {"sqlstate": "57014"}, 503),
            (OperationalError, ["storniere Anfrage"], {"pgcode": "57014"}, 503),
            (OperationalError, [1020, "secret hat sich"], {}, 503),
            (OperationalError, [1205, "Beim Warten auf eine Sperre"], {}, 503),
            (OperationalError, [1213, "Eine Verklemmung"], {}, 503),
            (OperationalError, [1317, "secret unterbrochen"], {}, 503),
            (OperationalError, [1969, "secret unterbrochen"], {}, 503),
            (OperationalError, [3024, "secret unterbrochen"], {}, 503),
            (OperationalError, [3572, "secret abgebrochen"], {}, 503),
            (OperationalError, ["secret"], {"sqlite_errorcode": 5}, 503),
            (OperationalError, ["secret"], {"sqlite_errorcode": 5 | 2 << 8}, 503),
            (OperationalError, ["secret"], {"sqlite_errorcode": 6 | 1 << 8}, 503),
            # Before Python 3.11 SQLite gives a text only.
            (OperationalError, ["database is locked"], {}, 503),
            (OperationalError, ["database table is locked: secret"], {}, 503),
            # A text that sounds like one of these is none of them.
            (OperationalError, ["no secret: is locked"], {"sqlite_errorcode": 1}, 500),
            (OperationalError, ["deadlock, secret"], {"sqlstate": "57P01"}, 500),
            (OperationalError, [3118, "Account secret is locked."], {}, 500),
            (OperationalError, ["no such table: secret"], {}, 500),
            (OperationalError, [["secret"], 1205], {}, 500),
            (OperationalError, [], {}, 500),
            (DatabaseError, ["database disk image is malformed: secret"], {}, 500),
        ]:
            cause = Exception(*arguments)
            vars(cause).update(code)
            error = kind(*arguments)
            error.__cause__ = cause
            with self.subTest(error, code=code):
                with self.assertLogs("django.request") as logs:
                    reply = self.ask(error, status)
                self.assertNotIn("secret", json.dumps(reply))
                (record,) = logs.records
                text = f"{record.getMessage()} {record.exc_info}"
                self.assertIn(str(error), text)
                if status == 503:
                    message = "The database is busy. Please try again."
                    self.assertEqual(reply["data"]["message"], message)
        # Without a driver's error it is Django's own: Django 5.2 raises a bare one for
        # a record that is gone.
        for error, status in (DatabaseError("x"), 409), (OperationalError("x"), 500):
            with self.assertLogs("django.request"):
                self.ask(error, status)

    def test_a_validation_error_carries_its_errors_by_field(self):
        for error, expected in [
            (ValidationError({"cup": ["Too hot."]}), {"cup": ["Too hot."]}),
            (ValidationError(["A", "B"]), {"__all__": ["A", "B"]}),
            (ValidationError("%(n)s cups", params={"n": 2}), {"__all__": ["2 cups"]}),
        ]:
            with self.subTest(expected):
                self.assertEqual(self.ask(error, 400)["errors"], expected)

    def test_an_exception_whose_text_fails_is_a_500(self):
        class Mute(Exception):
            __str__ = __repr__ = lambda self: 1 / 0

        refusal = type("MuteRefusal", (Mute, exceptions.PermissionDenied), {})
        bad, params = "'100% x' is not fine", {"v": 1}
        for error in (
            ValidationError(bad, params=params),
            Mute(),
            refusal("No"),
            ValidationError({"cup": ValidationError(bad, params=params)}),
            ValidationError("%(w)s cups", params=params),
            ajax.AJAXError(400, lazy(lambda: 1 / 0, str)()),
        ):
            for debug in (False, True):
                with self.subTest(type(error), debug=debug), self.settings(DEBUG=debug):
                    with self.assertLogs("django.request", "ERROR") as logs:
                        self.ask(error, 500)
                    self.assertEqual(len(logs.records), 1)

    def test_clients_cannot_forge_lines_of_the_log(self):
        def clash(request):
            raise IntegrityError(f"Key (name)=({request.data['name']}) is taken.")

        forged = "\n\x1b[31mforged"
        statuses = {"ask": 409, quote(forged): 404, f"article/{quote(forged)}/get": 404}
        with mock.patch.object(ask, "answer", clash, create=True):
            for path, status in statuses.items():
                with self.assertLogs("django.request") as logs:
                    self.post(f"shop/{path}", {"name": forged}, status=status)
                self.assertNotRegex(logs.records[0].getMessage(), "[\n\x1b]")

    def test_errors_show_nothing_of_a_record_that_can_get_refuses(self):
        private = Supplier.objects.create(name="Secret Ltd", is_private=True)
        offer = Offer.objects.create(article=self.article, supplier=private)
        for path, sent, status in [
            (f"shop/supplier/{private.pk}/get", {}, 403),
            (f"shop/supplier/{private.pk}/delete", {}, 403),
            (f"shop/supplier/{private.pk}/update", {"is_private": "?"}, 403),
            (f"shop/offer/{offer.pk}/update", {"supplier": private.pk, "note": 0}, 400),
        ]:
            with self.subTest(path), self.settings(DEBUG=True):
                reply = self.post(path, sent, status=status)
                self.assertNotIn("Secret", json.dumps(reply))

    def test_debug_shows_the_exception_and_traceback(self):
        for debug in (True, False):
            with self.subTest(debug=debug), self.settings(DEBUG=debug):
                reply = self.ask(ZeroDivisionError("by zero"), 500)
                self.assertEqual("by zero" in reply["data"]["message"], debug)
                frames = json.dumps(reply.get("traceback", []))
                self.assertRegex(frames, r"^\[.*ask" if debug else r"^\[\]$")
                self.assertNotIn("traceback", self.ask(Http404(), 404))

    def test_debug_suggests_a_name_for_one_that_is_not_there(self):
        for path, hint in [
            ("shpo/article", "shop"),
            ("zzzzzz/article/list", "shop"),
            ("shop/artcle", r"Did you mean shop/article\?"),
            ("shop/helo", r"Did you mean shop/hello\?"),
            ("shop/contact_form", r"Did you mean shop/contactform\?"),
            ("shop/artcle/list", "shop/article"),
            ("shop/artcle/1/get", "shop/article"),
            ("shop/article/lst", "Did you mean .*list"),
            (f"{self.path}/publsh", "Did you mean .*publish"),
            ("shop/zzzzzz", "."),
            ("shop/article/zzzzzz", "list.*publish|publish.*list"),
            (f"{self.path}/tgs/add", r"Did you mean tags\?"),
            (f"{self.path}/tags/ad", r"Did you mean add\?"),
        ]:
            for debug in (True, False):
                with self.subTest(path, debug=debug), self.settings(DEBUG=debug):
                    reply = self.post(path, status=404)
                    self.assertRegex(reply.get("hint", ""), hint if debug else "^$")

    def test_async_functions_fail_like_the_others(self):
        load = "django.contrib.sessions.backends.db.SessionStore.load"
        source = "async def fine(request): 1\nasync def broken(request): 1 / 0"
        with self.apps(later=source):
            self.post("later/broken", status=500)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                error = OperationalError("The database is locked.")
                with mock.patch(load, side_effect=error):
                    self.post("later/fine", status=503)
                gc.collect()  # A coroutine that was not awaited warns now.
        self.assertEqual([str(warning.message) for warning in warned], [])

    def test_json_response_gives_a_plain_view_the_same_answers(self):
        for answer in (
            mock.Mock(return_value=1),
            mock.Mock(side_effect=Http404("No.")),
            mock.Mock(side_effect=ajax.AJAXError(418, "Tea", cup=1)),
            mock.Mock(side_effect=KeyError("a")),
        ):
            with mock.patch.object(ask, "answer", answer, create=True):
                view = self.client.get("/plain/")
                endpoint = self.client.post("/ajax/shop/ask.json")
            self.assertEqual(view.status_code, endpoint.status_code)
            self.assertEqual(view.json(), endpoint.json())

    @atomic_requests()
    def test_under_atomic_requests_an_error_reply_rolls_back(self):
        error = ajax.AJAXError(400, "No")
        for end, status in [
            (mock.Mock(side_effect=KeyError), 500),
            (mock.Mock(side_effect=error), 400),
            (mock.Mock(side_effect=Http404), 404),
            (mock.Mock(return_value=error), 400),
            (lambda request: object(), 500),
            (lambda request: 1, 200),
        ]:

            def answer(request, end=end):
                Category.objects.create(title="A")
                return end(request)

            with self.subTest(end):
                self.ask(answer, status)
                saved = Category.objects.filter(title="A").exists()
                self.assertEqual(saved, status == 200)

    def test_an_ajax_error_of_something_else_fails_where_it_is_made(self):
        code, message = "code of an AJAXError is an integer", "message of an AJAXError"
        for arguments, kind, text in [
            (("Not now.",), TypeError, "'message'"),
            (("Not now.", 400), TypeError, code),
            (("404", "No"), TypeError, code),
            ((404.0, "No"), TypeError, code),
            ((True, "No"), TypeError, code),
            ((None, "No"), TypeError, code),
            ((404, None), TypeError, message),
            ((404, {"title": "No"}), TypeError, message),
            ((404, ["No"]), TypeError, message),
            ((404, b"No"), TypeError, message),
            ((404, ValidationError("No")), TypeError, message),
            ((5, ""), ValueError, "from 400 to 599, not 5"),
            ((200, "No"), ValueError, "from 400 to 599, not 200"),
            ((399, "No"), ValueError, "from 400 to 599"),
            ((600, "No"), ValueError, "from 400 to 599"),
        ]:
            with self.subTest(arguments), self.assertRaisesMessage(kind, text):
                ajax.AJAXError(*arguments)
        with self.assertRaisesMessage(TypeError, "dict, not a NoneType"):
            ajax.EnvelopedResponse([], None)
        error = ajax.AJAXError(HTTPStatus.CONFLICT, mark_safe("<b>"))
        self.assertEqual(self.ask(error, 409)["data"], {"code": 409, "message": "<b>"})

    def test_errors_are_lists_of_texts_by_name_whatever_they_are_made_of(self):
        form = ContactForm({"email": "x", "text": "Hi"})
        invalid = {"email": ["Enter a valid email address."]}
        lines = forms.formset_factory(ContactForm)
        counts = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 0, "form-0-email": "x"}
        counts["form-0-text"] = "Hi"
        for errors, expected in [
            ({"title": ["One.", "Two."]}, {"title": ["One.", "Two."]}),
            ({"title": "One."}, {"title": ["One."]}),
            ({"title": gettext_lazy("One.")}, {"title": ["One."]}),
            ({gettext_lazy("title"): ("One.",)}, {"title": ["One."]}),
            ({"title": ValidationError("One.")}, {"title": ["One."]}),
            (
                {"title": [ValidationError(["One.", "Two."])]},
                {"title": ["One.", "Two."]},
            ),
            ({"title": ValueError("One.")}, {"title": ["One."]}),
            ({"title": (text for text in ["One."])}, {"title": ["One."]}),
            ({"title": None, "size": 5}, {"title": [], "size": ["5"]}),
            ({"lines": [{"size": ["One."]}, {}]}, {"lines": ["size: One."]}),
            ({}, {}),
            (form.errors, invalid),
            ({"contact": form.errors}, {"contact": [f"email: {invalid['email'][0]}"]}),
            (form.errors["email"], {"__all__": invalid["email"]}),
            (lines(counts).errors, {"__all__": [f"email: {invalid['email'][0]}"]}),
            ("One.", {"__all__": ["One."]}),
            (gettext_lazy("One."), {"__all__": ["One."]}),
            (["One.", gettext_lazy("Two.")], {"__all__": ["One.", "Two."]}),
            (ValidationError(["One.", "Two."]), {"__all__": ["One.", "Two."]}),
            (ValidationError({"title": "One."}), {"title": ["One."]}),
            (None, {"__all__": []}),
        ]:
            with self.subTest(errors=errors):
                error = ajax.AJAXError(400, "Bad.", errors=errors)
                self.assertEqual(self.ask(error, 400)["errors"], expected)

    def test_records_beside_the_data_are_shown_as_the_user_may_see_them(self):
        private = Supplier.objects.create(name="Secret Ltd", is_private=True)
        public = Supplier.objects.create(name="Open Ltd")
        for supplier in (private, public):
            Offer.objects.create(article=self.article, supplier=supplier)
        offers = list(Offer.objects.order_by("pk"))
        expected = [self.shown(offer) for offer in offers]
        self.assertEqual(expected[0]["supplier"], private.pk)
        self.assertEqual(expected[1]["supplier"]["name"], "Open Ltd")
        error = ajax.AJAXError(409, "No", more=offers)
        for status, answer in [
            (200, lambda request: ajax.EnvelopedResponse(1, {"more": offers})),
            (409, lambda request: error),
            (409, error),
        ]:
            with self.subTest(status=status):
                self.assertEqual(self.ask(answer, status)["more"], expected)
        with mock.patch.object(ask, "answer", lambda request: error, create=True):
            self.assertEqual(self.client.get("/plain/").json()["more"], expected)
        unknown_user = json.loads(error.get_response().content)["more"]
        suppliers = [offer["supplier"] for offer in unknown_user]
        self.assertEqual(suppliers, [private.pk, public.pk])
        self.client.logout()
        for answer in (error, lambda request: error):
            article_pks = [offer["article"] for offer in self.ask(answer, 409)["more"]]
            self.assertEqual(article_pks, [self.article.pk] * 2)
        with self.settings(DEBUG=True):
            hint = self.ask(error, 409)["hint"]
            self.assertIn("ArticleEndpoint.authenticate refuses this user", hint)

    def test_an_endpoint_encodes_records_as_the_user_may_see_them(self):
        private = Supplier.objects.create(name="Secret Ltd", is_private=True)
        public = Supplier.objects.create(name="Open Ltd")
        for supplier in (private, public):
            Offer.objects.create(article=self.article, supplier=supplier)

        def both(self, request):
            offers = Offer.objects.order_by("pk")
            return [self._encode_record(offers[0]), self._encode_data(offers)]

        self.serve(Offer, authenticate=yes, both=both)
        expected = [self.shown(offer) for offer in Offer.objects.order_by("pk")]
        data = self.post("shop/offer/both")["data"]
        self.assertEqual(data, [expected[0], expected])
        self.assertEqual(expected[1]["supplier"]["name"], "Open Ltd")
        self.client.logout()
        data = self.post("shop/offer/both")["data"]
        self.assertEqual(data[0]["article"], self.article.pk)

    def test_a_login_url_that_names_no_page_is_left_out(self):
        self.client.logout()
        lazily = lazy(reverse, str)("no_such_page")
        for login_url in ("no_such_page", "", None, lazily):
            for debug in (True, False):
                with self.settings(LOGIN_URL=login_url, DEBUG=debug):
                    for path_ in ("shop/whoami", f"{self.path}/get"):
                        with self.subTest(login_url, debug=debug, path=path_):
                            reply = self.post(path_, status=403)
                            self.assertNotIn("login_url", reply)
                            self.assertEqual(reply["data"]["message"], "Please log in.")
                            hint = "LOGIN_URL names no page of this site."
                            self.assertEqual(reply.get("hint"), hint if debug else None)

    def test_a_result_that_cannot_be_encoded_keeps_nothing_where_a_write_is_atomic(
        self,
    ):
        """A function is no transaction, unless ATOMIC_REQUESTS says so."""

        def write(request):
            return Category.objects.create(title="Kept")

        self.register_encoder(Category, Failing())
        for is_atomic, count in [(False, 1), (True, 0)]:
            kept = Category.objects.filter(title="Kept")
            kept.delete()
            with self.subTest(is_atomic), atomic_requests(is_atomic):
                self.ask(write, 500)
                self.assertEqual(kept.count(), count)
                kept.delete()
                self.post("shop/category", {"title": "Kept"}, status=500)
                self.assertEqual(kept.count(), 0)

    def test_the_body_is_read_after_authentication_and_before_the_call(self):
        seen = []

        def authenticate(self, request, application, method):
            seen.append(hasattr(request, "data"))
            return True

        def prepare_record(self, request, record, created):
            seen.append(request.data)

        for served, path_ in [
            (Category, "shop/category"),
            (ContactForm, "shop/contactform"),
        ]:
            attributes = {"authenticate": authenticate}
            if served is Category:
                attributes["prepare_record"] = prepare_record
            self.serve(served, **attributes)
            for body in (b"{", b'{"title": "\\u0000"}'):
                with self.subTest(path_, body=body):
                    status, reply = self.send(path_, body)
                    self.assertEqual((status, seen), (400, [False]))
                    seen.clear()
            self.serve(served, authenticate=no)
            with self.subTest(path_):
                self.assertEqual(self.send(path_, b"{")[0], 403)
        self.serve(Category, authenticate=authenticate)
        self.post("shop/category", {"title": "A"})
        self.assertEqual(seen, [False, {"title": "A"}])

    def test_a_receiver_that_fails_does_not_replace_the_reply(self):
        self.receive(got_request_exception, fail)
        with self.assertLogs("django.request") as logs:
            self.assertEqual(self.ask(KeyError("a"), 500)["data"]["code"], 500)
        self.assertEqual(len(logs.records), 1)


class Commits(EndpointHelpers, TransactionTestCase):
    """`Responses` where a transaction has to end for real."""

    post = ShopTestCase.post

    def setUp(self):
        create_records(self)
        super().setUp()

    def test_a_failure_at_or_after_the_commit_is_json(self):
        def dangle(*arguments):
            # The database checks at the commit whether there is such an owner.
            Note.objects.create(owner_id=10**6, text="x")

        self.serve(Category, save_record=lambda self, *args: dangle(args[1].save()))
        for is_atomic, path in [
            (True, "/ajax/shop/ask.json"),
            (True, "/ajax/shop/category.json"),
            (True, "/plain/"),
            (False, "/ajax/shop/category.json"),
        ]:
            with (
                self.subTest(path),
                atomic_requests(is_atomic),
                mock.patch.object(ask, "answer", dangle, create=True),
                self.assertLogs("django.request", "WARNING") as logs,
            ):
                response = self.client.post(path, {"title": "A"})
                self.assertEqual(response.status_code, 409)
                self.assertEqual(response.json()["data"]["code"], 409)
                self.assertEqual(len(logs.records), 1)
                self.assertFalse(Note.objects.exists())
                self.assertFalse(Category.objects.filter(title="A"))
        with atomic_requests():
            self.ask(lambda request: transaction.on_commit(lambda: 1 / 0), 500)

    @atomic_requests()
    def test_an_endpoint_may_be_non_atomic(self):
        source = """
            from django.db import connection, transaction
            def inside(request): return connection.in_atomic_block
            outside = transaction.non_atomic_requests(lambda request: inside(request))
        """
        with self.apps(acid=source):
            self.assertIs(self.post("acid/inside")["data"], True)
            self.assertIs(self.post("acid/outside")["data"], False)

    def test_a_file_that_was_stored_is_removed_if_the_commit_fails(self):
        def save_and_dangle(self, request, record, created):
            record.save()
            Note.objects.create(owner_id=10**6, text="x")

        self.serve(Album, save_record=save_and_dangle)
        for is_atomic in (False, True):
            with files_in_a_folder() as read_files, atomic_requests(is_atomic):
                sent = {"title": "A", **uploads()}
                self.post("shop/album", sent, 409, form=True)
                self.assertEqual(read_files(), {})


# --- Functions ------------------------------------------------------------------------

from asgiref.sync import async_to_sync
from django.test import AsyncClient
from django.views import View
from django.views.decorators.cache import never_cache

OTHERS = """
    import ajax
    def imported(request): pass
    def adding(view): return lambda *args: view(*args)
    class Base(ajax.BaseEndpoint):
        def __call__(self, request): return 1
    shared = Base()
"""

EXPOSED = """
    import ajax, functools
    from ajax import *
    from ajax import dispatch, json_response as renamed
    from django.contrib.auth import decorators
    from django.views import View
    from django.views.decorators.cache import never_cache
    from others.endpoints import Base, adding, imported, imported as other, shared
    from test_ajax import Category
    def plain(request, number=1, *rest, **options): return number
    async def later(request):
        return [request.user.username, await Category.objects.acount()]
    @ajax.login_required
    def guarded(request): return 1
    @ajax.login_required
    async def guarded_later(request): return request.user.username
    @decorators.login_required
    def redirecting(request): return 1
    @decorators.permission_required("shop.add_article", raise_exception=True)
    def permitted(request): return 1
    @decorators.login_not_required
    def welcoming(request): return 1
    @never_cache
    @ajax.json_response
    def uncached(request): return 1
    def giving(view): return functools.wraps(view)(lambda request: view(request, 1))
    @giving
    def given(request, number): return number
    class Lamp(Base):
        def __call__(self, request):
            categories = Category.objects.order_by("pk")
            return [self._encode_record(categories[0]), self._encode_data(categories)]
        def __len__(self): return 0
    class Door(Base):
        @decorators.login_not_required
        def __call__(self, request): return 1
    lamp, door, of_an_imported_class = Lamp(), Door(), Base()
    guarded_object, of_others = map(ajax.login_required, (Lamp(), Base()))
    def giving_more(view):
        def give(request, *args, **kwargs): return view(request, 1, *args, **kwargs)
        return functools.wraps(view)(give)
    @decorators.login_required
    @giving_more
    def given_more(request, number): return number
    @ajax.login_required
    def guarded_default(request, number=1, *, text="a"): return number
"""

#: Functions and objects that want more than a request.
WANTING = """
    import ajax
    from django.contrib.auth import decorators
    from django.db import transaction
    from django.views.decorators.csrf import csrf_exempt
    @ajax.login_required
    def guarded(request, number): return number
    @ajax.login_required
    async def guarded_later(request, number): return number
    @ajax.login_required
    def named(request, *, number): return number
    @csrf_exempt
    @ajax.json_response
    def replying(request, number): return number
    @ajax.json_response
    async def replying_later(request, number): return number
    @decorators.permission_required("shop.add_article", raise_exception=True)
    def permitted(request, number): return number
    @transaction.atomic
    def atomic(request, number): return number
    class Wanting(ajax.BaseEndpoint):
        def __call__(self, request, number): return number
    class Guarded(ajax.BaseEndpoint):
        @ajax.login_required
        def __call__(self, request, number): return number
    wanting, guarded_method = Wanting(), Guarded()
    guarded_object = ajax.login_required(Wanting())
"""

NOT_EXPOSED = """
    _adding = lambda view: lambda *args: view(*args)
    def helper(text, more=None): pass
    async def short(req): pass
    def anything(*args, **kwargs): pass
    @_adding
    def decorated(request): pass
    def second(user, request): pass
    def nothing(): pass
    def _private(request): pass
    @adding
    def unnamed(request): pass
    partial_view = functools.partial(plain)
    wrapped_import = ajax.login_required(imported)
    class Plain(View): __call__ = plain
    plain_object, _hidden, constant = Plain(), Lamp(), {"a": 1}
"""

LISTED = """
    import ajax
    from others.endpoints import Base
    from asgiref.sync import async_to_sync
    from functools import partial
    __all__ = ["listed", "short", "Klass", "endpoint", "_private", "number"]
    __all__ += ["method", "synchronous", "fixed"]
    def listed(request): return 1
    def short(req): return 1
    def unlisted(request): return 1
    def _private(request): return 1
    class Klass(Base): pass
    endpoint, other, number = Klass(), Klass(), 1
    method = endpoint.__call__
    @async_to_sync
    async def synchronous(request): return 1
    fixed = partial(lambda request, number: number, number=1)
"""


class Functions(AjaxTestCase):
    def setUp(self):
        super().setUp()
        sources = {"others": OTHERS, "tools": EXPOSED + NOT_EXPOSED, "listing": LISTED}
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        stack.enter_context(self.apps(**sources, empty=OTHERS + "    __all__ = []"))

    def exposed(self, app):
        """Return the names in the endpoints.py of an app that can be called."""
        self.post("shop/hello")
        names = [*vars(sys.modules[f"{app}.endpoints"]), "missing"]
        return {name for name in names if self.send(f"{app}/{name}")[0] != 404}

    def test_functions_of_a_request_and_endpoint_objects_are_exposed(self):
        expected = {
            "plain",
            "later",
            "guarded",
            "guarded_later",
            "redirecting",
            "permitted",
            "welcoming",
            "uncached",
            "given",
            "lamp",
            "door",
            "of_an_imported_class",
            "shared",
            "guarded_object",
            "of_others",
            "given_more",
            "guarded_default",
        }
        User.objects.filter(pk=self.user.pk).update(is_superuser=True)
        self.assertEqual(self.exposed("tools"), expected)
        self.assertEqual(self.exposed("others"), {"imported", "shared"})

    def test_only_the_names_in_all_are_exposed(self):
        names = {"listed", "short", "endpoint", "method", "synchronous", "fixed"}
        self.assertEqual(self.exposed("listing"), names)
        for name in names:
            self.assertEqual(self.post(f"listing/{name}")["data"], 1)
        self.assertEqual(self.exposed("empty"), set())

    def test_what_wants_more_than_a_request_is_not_exposed(self):
        names = re.findall(r"^    (?:async )?def (\w+)\(request", WANTING, re.M)
        names += ["wanting", "guarded_method", "guarded_object"]
        User.objects.filter(pk=self.user.pk).update(is_superuser=True)
        listed = f"{WANTING}\n    __all__ = {names}"
        for source in (WANTING, listed):
            with self.apps(wants=source), self.settings(DEBUG=True):
                messages = [error.msg for error in checks.run_checks()]
                for name in names:
                    with self.subTest(name, is_listed=source is listed):
                        reply = self.post(f"wants/{name}", status=404)
                        message = f"wants.endpoints.{name} is not exposed."
                        self.assertIn(message, reply["hint"])
                        self.assertIn("@ajax.validated", reply["hint"])
                        self.assertIn(message, messages)

    def test_debug_tells_of_a_function_that_takes_more(self):
        source = """
            import datetime
            def report(request, since: datetime.date): return 1
            def reports(request): return 1
            def count(since, until): return 1
            """
        listed = f"{source}__all__ = ['reports']"
        for text, is_told in ((source, True), (listed, False)):
            with self.apps(books=text), self.settings(DEBUG=True):
                hint = self.post("books/report", status=404)["hint"]
                expected = (
                    "books.endpoints.report takes more than request: put "
                    "@ajax.validated above it."
                )
                self.assertEqual(hint == expected, is_told, hint)
                hint = self.post("books/count", status=404)["hint"]
                self.assertNotIn("more", hint)
                messages = [error.msg for error in checks.run_checks()]
                self.assertNotIn("books.endpoints", " ".join(messages))

    def test_debug_tells_why_a_method_is_no_operation(self):
        article = Article.objects.get(title="First")
        self.serve(
            Article,
            operations=["get", "list"],
            can_list=yes,
            lend=lambda self, request, record: None,
            _lend=lambda self, request, record: None,
        )
        for path, hint in [
            (
                f"{article.pk}/lend",
                "ArticleEndpoint.lend takes more than request: put ",
            ),
            (f"{article.pk}/delete", 'Add "delete" to operations of ArticleEndpoint.'),
            (f"{article.pk}/list", "ArticleEndpoint.list takes no pk."),
            (f"{article.pk}/_lend", "There "),
            (f"{article.pk}/save_record", "There "),
            (f"{article.pk}/gett", "Did you mean get?"),
        ]:
            with self.subTest(path), self.settings(DEBUG=True):
                reply = self.post(f"shop/article/{path}", status=404)
                self.assertEqual(reply["data"]["message"], NO_OPERATION)
                self.assertIn(
                    hint.replace("There ", "These names exist"), reply["hint"]
                )
            reply = self.post(f"shop/article/{path}", status=404)
            self.assertNotIn("hint", reply)

    def test_an_endpoint_object_encodes_records(self):
        news, local = self.shown(self.news), self.shown(self.local)
        self.assertEqual(self.post("tools/lamp")["data"], [news, [news, local]])

    def test_async_functions_run_with_their_user_loaded(self):
        self.assertEqual(self.post("tools/guarded_later")["data"], "ann")
        self.assertEqual(self.post("tools/later")["data"], ["ann", 2])
        client = AsyncClient()  # This one calls from an event loop.
        client.force_login(self.user)
        response = async_to_sync(client.post)("/ajax/tools/later.json")
        self.assertEqual(response.json()["data"], ["ann", 2])

    def test_a_function_is_open_unless_decorated(self):
        self.post("tools/permitted", status=403)
        self.client.logout()
        self.post("tools/plain")
        for name in ("guarded", "guarded_later", "guarded_object"):
            self.assertIn("login_url", self.post(f"tools/{name}", status=403))
        response = self.client.post("/ajax/tools/redirecting.json")
        self.assertIn("/accounts/login/?next=/ajax/", response["Location"])

    def test_a_decorator_of_the_response_goes_above_json_response(self):
        response = self.client.post("/ajax/tools/uncached.json")
        self.assertEqual(response.json(), {"success": True, "data": 1})
        self.assertIn("no-store", response["Cache-Control"])

    def test_login_required_middleware_is_obeyed_as_json(self):
        required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
        names = ("plain", "guarded", "later", "lamp", "shared")
        calls = {f"tools/{name}": 403 for name in names} | {"shop/category/list": 403}
        calls |= {"tools/welcoming": 200, "tools/door": 200, "shop/contactform": 400}
        with self.modify_settings(MIDDLEWARE={"append": required}):
            self.client = Client()
            for path, status in calls.items():
                with self.subTest(path):
                    reply = self.post(path, status=status)
                    self.assertEqual("login_url" in reply, status == 403)
            self.client.force_login(self.user)
            self.post("tools/plain")

    def test_debug_tells_of_a_callable_that_is_not_exposed(self):
        for name in ("plain_object", "helper", "decorated", "short"):
            for debug in (True, False):
                with self.subTest(name, debug=debug), self.settings(DEBUG=debug):
                    reply = self.post(f"tools/{name}", status=404)
                    hint = f"tools.endpoints.{name} is not exposed."
                    self.assertEqual(reply.get("hint", "").startswith(hint), debug)
                    self.assertEqual(reply["data"]["message"], NO_ENDPOINT)
        others = ["Lamp", "_private", "constant", "imported", "missing"]
        paths = [f"tools/{name}" for name in others]
        for path_ in [*paths, "empty/shared", "auth/nothing"]:
            with self.subTest(path_), self.settings(DEBUG=True):
                self.assertNotIn("exposed", self.post(path_, status=404)["hint"])

    # Decorators of plain views

    def call_view(self, view, user=None):
        """Call a view by WSGI and by ASGI; return the status, and the body as text."""
        answers = set()
        with self.settings(ROOT_URLCONF=(path("view/", view),)):
            for client_class in (Client, AsyncClient):
                client = client_class(raise_request_exception=False)
                if user:
                    client.force_login(user)
                get = client.get
                if client_class is AsyncClient:
                    get = async_to_sync(client.get)
                response = get("/view/")
                answers.add((response.status_code, response.content.decode()))
        (answer,) = answers  # It is the same by either way.
        return answer

    def views(self, answer):
        """Return views of all kinds that return answer(request) as text."""

        def text_of(request):
            return HttpResponse(str(answer(request)))

        async def async_view(request):
            await Category.objects.acount()
            return text_of(request)

        async def get(self, request):
            return await async_view(request)

        class CallableView:
            async def __call__(self, request):
                return await async_view(request)

        sync_class = type("SyncView", (View,), {"get": lambda self, r: text_of(r)})
        async_class = type("AsyncView", (View,), {"get": get})
        return {
            "function": text_of,
            "coroutine function": async_view,
            "class": sync_class.as_view(),
            "class of coroutine functions": async_class.as_view(),
            "object with a coroutine function": CallableView(),
        }

    def test_login_required_guards_any_plain_view(self):
        refusal = {"code": 403, "message": "Please log in."}
        for kind, view in self.views(lambda request: request.user.username).items():
            guarded = {
                "alone": ajax.login_required(view),
                "above json_response": ajax.login_required(ajax.json_response(view)),
                "below json_response": ajax.json_response(ajax.login_required(view)),
            }
            if kind == "object with a coroutine function":
                del guarded["alone"]  # Django cannot call it.
            for place, guarded_view in guarded.items():
                with self.subTest(kind, place=place):
                    status, text = self.call_view(guarded_view)
                    reply = json.loads(text)
                    self.assertEqual((status, reply["data"]), (403, refusal))
                    self.assertEqual(reply["login_url"], "/accounts/login/")
                    answer = self.call_view(guarded_view, self.user)
                    self.assertEqual(answer, (200, "ann"))
        request = HttpRequest()
        request.user = self.user
        view = ajax.login_required(lambda request, number: number)
        self.assertEqual(view(request, 5), 5)  # As paths that capture something do.

    def test_json_response_takes_any_plain_view(self):
        def fail_for_visitors(request):
            return 1 if request.user.is_authenticated else 1 / 0

        broken = {"code": 500, "message": "Internal server error."}
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for kind, view in self.views(fail_for_visitors).items():
                for json_view in (
                    ajax.json_response(view),
                    never_cache(ajax.json_response(view)),
                    ajax.json_response(ajax.json_response(view)),
                ):
                    with self.subTest(kind), atomic_requests():
                        status, text = self.call_view(json_view)
                        data = json.loads(text)["data"]
                        self.assertEqual((status, data), (500, broken))
                        answer = self.call_view(json_view, self.user)
                        self.assertEqual(answer, (200, "1"))
            gc.collect()  # A coroutine that was not awaited warns now.
        self.assertEqual([str(warning.message) for warning in warned], [])

    def test_json_response_encodes_what_a_coroutine_function_returns(self):
        @ajax.json_response
        async def view(request):
            return await Category.objects.aget(title="News")

        status, text = self.call_view(view, self.user)
        data = {"pk": self.news.pk, "title": "News", "parent": None}
        self.assertEqual((status, json.loads(text)["data"]), (200, data))

    def test_login_required_guards_methods_too(self):
        class Door(ajax.BaseEndpoint):
            @ajax.login_required
            def __call__(self, request):
                return request.user.username

        door = Door()
        with mock.patch.object(ask, "answer", lambda r: door(r), create=True):
            self.assertEqual(self.post("shop/ask")["data"], "ann")
            self.client.logout()
            self.assertIn("login_url", self.post("shop/ask", status=403))
        ring = ajax.login_required(lambda self, request: self.user.username)

        @ajax.login_required
        async def knock(self, request):
            return self.user.username

        self.serve(Category, authenticate=yes, ring=ring, knock=knock)
        for name in ("ring", "knock"):
            with self.subTest(name):
                self.client.logout()
                reply = self.post(f"shop/category/{name}", status=403)
                self.assertIn("login_url", reply)
                self.client.force_login(self.user)
                self.assertEqual(self.post(f"shop/category/{name}")["data"], "ann")

    def test_a_guard_that_fails_is_a_500_as_json(self):
        load = "django.contrib.auth.get_user"
        for kind, view in self.views(lambda request: 1).items():
            if kind != "object with a coroutine function":
                with self.subTest(kind), mock.patch(load, side_effect=KeyError("a")):
                    answer = self.call_view(ajax.login_required(view))
                    self.assertEqual(answer[0], 500)
                    self.assertIn("Internal server error.", answer[1])


# --- Checked parameters ---------------------------------------------------------------

VALIDATED = """
    import datetime, decimal, enum, typing, uuid
    from typing import Annotated, Any, Literal
    import ajax
    from django.core.files.uploadedfile import UploadedFile
    from django.core.validators import MaxLengthValidator, MinValueValidator
    from django.db import models
    from test_ajax import Article, Note

    class Size(models.TextChoices):
        SMALL = "s", "Small"
        LARGE = "l", "Large"

    class Level(enum.Enum):
        LOW = 1
        HIGH = 2

    ANNOTATIONS = {
        "text": str, "whole": int, "number": float, "exact": decimal.Decimal,
        "flag": bool, "day": datetime.date, "moment": datetime.datetime,
        "hour": datetime.time, "span": datetime.timedelta, "ident": uuid.UUID,
        "size": Size, "level": Level, "word": Literal["a", "b"], "digit": Literal[1, 2],
        "file": UploadedFile, "note": Note, "object": dict, "anything": Any,
        "texts": list[str], "wholes": list[int], "notes": list[Note],
        "maybe": int | None, "optional": typing.Optional[str],
        "positive": Annotated[int, MinValueValidator(1)],
        "short": Annotated[Literal["a", "ab"], MaxLengthValidator(1)],
        "email": Annotated[str, models.EmailField()],
        "few": Annotated[list[str], MaxLengthValidator(2)],
        "each": list[Annotated[int, MinValueValidator(1)]],
    }

    def show(value):
        if isinstance(value, models.Model):
            return value.pk
        if isinstance(value, UploadedFile):
            return value.read().decode()
        return [show(each) for each in value] if type(value) is list else repr(value)

    def make(name, annotation):
        def function(request, value):
            return show(value)

        function.__name__ = name
        function.__annotations__["value"] = annotation
        return ajax.validated(function)

    for _name, _annotation in ANNOTATIONS.items():
        globals()[_name] = make(_name, _annotation)

    @ajax.login_required
    @ajax.validated
    def several(request, note: Note, stars: int, text: str = "none", _own=5, *,
                when: datetime.date | None):
        "Take several."
        return [note.pk, stars, text, _own, when]

    @ajax.validated
    async def later(request, whole: int = 3):
        return whole + 1

    class Adder(ajax.BaseEndpoint):
        @ajax.validated
        def __call__(self, request, a: int, b: int = 2):
            return a + b

    add = Adder()
    """


class Parameters(AjaxTestCase):
    """Functions and operations whose parameters `ajax.validated` reads."""

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.mine = Note.objects.create(owner=cls.user, text="mine")
        cls.hers = Note.objects.create(owner=cls.other, text="hers")

    def take(self, name, value, status=200):
        return self.post(f"zoo/{name}", {"value": value}, status=status)

    def test_each_annotation_reads_json(self):
        mine = self.mine.pk
        with self.apps(zoo=VALIDATED):
            for name, value, expected in [
                ("text", " a ", "' a '"),
                ("text", "", "''"),
                ("text", 5, "'5'"),
                ("whole", 5, "5"),
                ("whole", " 5 ", "5"),
                ("number", 1.5, "1.5"),
                ("exact", "1.50", "Decimal('1.50')"),
                ("flag", False, "False"),
                ("flag", "on", "True"),
                ("day", "2024-05-06", "datetime.date(2024, 5, 6)"),
                ("hour", "07:08", "datetime.time(7, 8)"),
                ("span", "00:01:00", "datetime.timedelta(seconds=60)"),
                ("ident", str(uuid.UUID(int=1)), repr(uuid.UUID(int=1))),
                ("level", 2, "<Level.HIGH: 2>"),
                ("word", "a", "'a'"),
                ("digit", 1, "1"),
                ("note", mine, mine),
                ("note", {"pk": mine, "text": "x"}, mine),
                ("object", {"a": []}, "{'a': []}"),
                ("object", {}, "{}"),
                ("anything", [1, {"b": 2}], ["1", "{'b': 2}"]),
                ("anything", "[1]", "'[1]'"),
                ("anything", False, "False"),
                ("anything", "", "''"),
                ("texts", ["a", " b"], ["'a'", "' b'"]),
                ("texts", [], []),
                ("wholes", [1, "2"], ["1", "2"]),
                ("notes", [mine, {"pk": mine}], [mine, mine]),
                ("maybe", None, "None"),
                ("maybe", "", "None"),
                ("optional", "", "''"),
                ("positive", 1, "1"),
                ("short", "a", "'a'"),
                ("email", "a@example.com", "'a@example.com'"),
                ("few", ["a", "b"], ["'a'", "'b'"]),
                ("each", [1], ["1"]),
            ]:
                with self.subTest(name, value=value):
                    self.assertEqual(self.take(name, value)["data"], expected)
            self.assertIn("Size.SMALL", self.take("size", "s")["data"])
            moment = self.take("moment", "2024-05-06T07:08:09Z")["data"]
            self.assertIn("2024, 5, 6, 7, 8, 9, tzinfo=", moment)

    def test_each_annotation_reads_a_form(self):
        mine = self.mine.pk
        with self.apps(zoo=VALIDATED):
            for name, sent, expected in [
                ("text", {"value": " null"}, "' null'"),
                ("text", {"value": "null"}, "'null'"),
                ("whole", {"value": "5"}, "5"),
                ("flag", {"value": "false"}, "False"),
                ("digit", {"value": "2"}, "2"),
                ("note", {"value": mine}, mine),
                ("object", {"value": '{"a": 1}'}, "{'a': 1}"),
                ("anything", {"value": "[1]"}, ["1"]),
                ("texts", {"value": ["a", "b"]}, ["'a'", "'b'"]),
                ("texts", {"value": '["a"]'}, ["'a'"]),
                ("texts", {"value": ""}, []),
                ("wholes", {"value[]": ["1", "2"]}, ["1", "2"]),
                ("notes", {"value": [mine]}, [mine]),
                ("maybe", {"value": "null"}, "None"),
                ("maybe", {"value": ""}, "None"),
                ("maybe", {}, "None"),
                ("file", {"value": SimpleUploadedFile("a.txt", b"text")}, "text"),
            ]:
                with self.subTest(name, sent=sent):
                    reply = self.post(f"zoo/{name}", sent, form=True)
                    self.assertEqual(reply["data"], expected)

    def test_what_is_no_such_value_is_refused_by_name(self):
        junk = {
            "text": [True, None, [], {}, ["a"]],
            "whole": [True, None, "", "x", "1.5", 1.5, [], {}, 2**70],
            "number": [True, None, "x", {}, [1]],
            "exact": ["x", "NaN", "1E+1000000", True, "1" * 1001],
            "flag": ["maybe", 2, None, [], {}],
            "day": ["x", "2024-13-01", 5, None, True],
            "moment": ["x", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", {}],
            "hour": ["25:00", {}, None],
            "span": ["x", {}, None],
            "ident": ["x", 5, {}],
            "size": ["x", "", None, "S", "SMALL", {}],
            "level": [3, "LOW", None, True, [1]],
            "word": ["c", None, ["a"]],
            "digit": [3, "a", None, True],
            "file": ["a", None, {}, 1],
            "note": [0, "x", None, {}, [], self.hers.pk, True, "1_0"],
            "object": [[], "x", 1, None, "{}"],
            "anything": [None],
            "texts": ["a", None, [None], [True], [["a"]], {"a": 1}],
            "wholes": [["x"], [None], 1, ["a"] * 1001],
            "notes": [[0], [self.hers.pk], self.mine.pk, [[self.mine.pk]]],
            "maybe": ["x", True],
            "optional": [True],
            "positive": [0, -1],
            "short": ["ab", "b"],
            "email": ["x", ""],
            "few": [["a", "b", "c"]],
            "each": [[0]],
        }
        with self.apps(zoo=VALIDATED):
            for name, values in junk.items():
                for value in values:
                    with self.subTest(name, value=repr(value)[:40]):
                        errors = self.take(name, value, status=400)["errors"]
                        self.assertEqual([*errors], ["value"])
                with self.subTest(name, value="nothing"):
                    if name not in ("maybe", "optional"):
                        errors = self.errors(f"zoo/{name}")
                        self.assertEqual(errors["value"], ["This field is required."])

    def test_parameters_are_passed_by_name_and_all_errors_come_at_once(self):
        note = self.mine.pk
        with self.apps(zoo=VALIDATED):
            sent = {"note": note, "stars": 3}
            reply = self.post("zoo/several", sent)
            self.assertEqual(reply["data"], [note, 3, "none", 5, None])
            sent |= {"text": "a", "when": "2024-05-06", "csrfmiddlewaretoken": "x"}
            reply = self.post("zoo/several", sent)
            self.assertEqual(reply["data"], [note, 3, "a", 5, "2024-05-06"])
            errors = self.errors("zoo/several", {"note": 0, "star": 1, "_own": 6})
            self.assertEqual({*errors}, {"note", "stars", "star", "_own"})
            self.assertIn("stars", errors["star"][0])
            self.assertEqual(self.post("zoo/later")["data"], 4)
            self.assertEqual(self.post("zoo/later", {"whole": 5})["data"], 6)
            self.assertEqual(self.post("zoo/add", {"a": 1})["data"], 3)
            status, reply = self.send("zoo/add", b"a", "text/plain")
            self.assertEqual(status, 415)
            status, reply = self.send("zoo/add", b"[]")
            self.assertEqual(status, 400)

    def test_a_guard_above_it_is_asked_before_anything_is_read(self):
        self.client.logout()
        with self.apps(zoo=VALIDATED):
            for sent in ({"note": self.mine.pk}, {"note": 0}, {}):
                self.assertIn("login_url", self.post("zoo/several", sent, status=403))

    def test_a_can_get_that_is_always_true_lets_no_record_parameter_in(self):
        def can_get(self, user, note):
            return note.refresh_from_db  # The parentheses are missing.

        with self.apps(zoo=VALIDATED):
            self.serve(Note, can_get=can_get)
            self.take("note", self.mine.pk, 500)

    def test_a_record_parameter_takes_exactly_what_get_answers(self):
        names = ("authenticate", "can_get", "operations")
        usual = {name: getattr(ajax.ModelEndpoint, name) for name in names}
        usual["get_queryset"] = NoteEndpoint.get_queryset
        with self.apps(zoo=VALIDATED):
            for attributes in [
                usual,
                usual | {"authenticate": no},
                usual | {"operations": ["list"]},
                usual | {"can_get": no},
                usual | {"can_get": lambda self, user, note: note.text == "mine"},
                usual | {"get_queryset": lambda self, request: Note.objects.all()},
                usual | {"get_queryset": lambda self, request: Note.objects.none()},
            ]:
                self.serve(Note, **attributes)
                for user in (self.user, self.other, None):
                    self.client.logout()
                    if user:
                        self.client.force_login(user)
                    for note in (self.mine, self.hers):
                        path = f"/ajax/shop/note/{note.pk}/get.json"
                        expected = self.client.post(path).status_code == 200
                        body = json.dumps({"value": note.pk}).encode()
                        listed = json.dumps({"value": [note.pk]}).encode()
                        with self.subTest(attributes, user=user, note=note.text):
                            for name, sent in (("note", body), ("notes", listed)):
                                status, _reply = self.send(f"zoo/{name}", sent)
                                self.assertEqual(status == 200, expected)

    def test_it_is_described(self):
        with self.apps(zoo=VALIDATED), self.settings(DEBUG=True):
            paths = self.client.get("/ajax/openapi.json").json()["paths"]

        def schema(path):
            content = paths[path]["post"]["requestBody"]["content"]
            return content["application/json"]["schema"]

        several = schema("/zoo/several.json")
        self.assertEqual(several["required"], ["note", "stars"])
        self.assertEqual([*several["properties"]], ["note", "stars", "text", "when"])
        note = several["properties"]["note"]
        self.assertEqual(note["x-ajax"], {"pk_of": "shop/note"})
        self.assertEqual(several["properties"]["when"]["type"], ["string", "null"])
        size = schema("/zoo/size.json")["properties"]["value"]
        self.assertEqual(size["oneOf"][0], {"const": "s", "title": "Small"})
        file = schema("/zoo/file.json")["properties"]["value"]
        self.assertEqual(file["format"], "binary")
        self.assertEqual(
            schema("/zoo/object.json")["properties"]["value"], {"type": "object"}
        )

    def test_what_cannot_be_read_is_refused_when_it_is_defined(self):
        def refused(source, words):
            source = "import ajax, typing\n" + textwrap.dedent(source)
            with self.subTest(source):
                with self.assertRaises(ImproperlyConfigured) as caught:
                    exec(source, {"__name__": "zoo.endpoints"})
                self.assertIn(words, str(caught.exception))

        for parameters, words in [
            ("request, a", "'a' has no annotation"),
            ("request, days: int, record", "'record' stands directly after request"),
            ("request, *a: int", "'a' cannot be passed by its name"),
            ("request, **a: int", "'a' cannot be passed by its name"),
            ("request, a: int, /", "'a' cannot be passed by its name"),
            ("request, _a: int", "'_a' is never read"),
            ("request, a: set", "which ajax.py cannot read"),
            ("request, a: 5", "which ajax.py cannot read"),
            ("request, a: list", "which ajax.py cannot read"),
            ("request, a: list[list[str]]", "list of what cannot be read"),
            ("request, a: list[dict]", "list of what cannot be read"),
            ("request, a: list[int | None]", "list of what cannot be read"),
            ("request, a: int | str", "union of several types"),
            ("request, a: typing.Literal['1', 1]", "neither all texts nor all"),
            ("request, a: typing.Annotated[int, int]", "no validator and no field"),
            ("request, a: typing.Annotated[int, 5]", "no validator and no field"),
            ("request, a: 'Nowhere'", "'a' is annotated with 'Nowhere', which cannot"),
            ("request, a: list['Nowhere']", "'a' is annotated with 'Nowhere', which"),
            ("request, a: typing.Optional['int']", "'int', which is not evaluated"),
            ("request, a: 'list['", "'a' is annotated with 'list[', which cannot"),
            ("request, a: 'typing.nope'", "'nope'. Import or define its names"),
            ("request, a: '5 + None'", "'a' is annotated with '5 + None', which"),
            ("a: int", "must take request first"),
            ("", "must take request first"),
            ("self, other, a: int", "must take request first"),
        ]:
            refused(f"@ajax.validated\ndef f({parameters}): pass", words)
        guarded = "@ajax.validated\n@ajax.login_required\ndef f(request, a: int): pass"
        refused(guarded, "directly above")
        refused("ajax.validated(print)", "directly above")
        refused("ajax.validated(object())", "directly above")
        two = "models.EmailField(), models.URLField()"
        source = "from django.db import models\n@ajax.validated\n"
        refused(f"{source}def f(request, a: typing.Annotated[str, {two}]): pass", "one")
        one = "dict, models.EmailField()"
        refused(
            f"{source}def f(request, a: typing.Annotated[{one}]): pass",
            "one model field",
        )

    def test_annotations_may_name_what_is_imported_for_type_checkers_only(self):
        source = """
            import typing
            import ajax
            from django.contrib.auth.models import Group
            from django.core.validators import MaxValueValidator

            if typing.TYPE_CHECKING:
                from django.http import HttpRequest
                from nowhere import Lost, User

            def plain(request: HttpRequest) -> Lost:
                return 1

            @ajax.login_required
            def guarded(request: HttpRequest, more: Lost = None) -> Lost:
                return 2

            Stars = typing.Annotated[int, MaxValueValidator(5)]

            @ajax.validated
            def rate(request: HttpRequest, stars: Stars, _own: Lost = None) -> Lost:
                return stars

            class Door(ajax.BaseEndpoint):
                def __call__(self, request: HttpRequest) -> Lost:
                    return 4

            door = Door()

            @ajax.register(Group)
            class GroupEndpoint(ajax.ModelEndpoint):
                fields = ["name"]

                def can_list(self, user: User) -> Lost:
                    return True

                def can_update(self, user: User, record: Lost, modified: Lost) -> Lost:
                    return True

                def count(self, request: HttpRequest) -> Lost:
                    return 5

                @ajax.validated
                def join(self, request: HttpRequest, record: Lost, number: int) -> Lost:
                    return number
            """
        self.addCleanup(ajax.endpoint.unregister, Group)
        group = Group.objects.create(name="a")
        headers = ["from __future__ import annotations"]
        if sys.version_info >= (3, 14):
            headers.append("")  # Python itself evaluates them later.
        for header in headers:
            if ajax.endpoint.is_registered(Group):
                ajax.endpoint.unregister(Group)
            with self.subTest(header), self.apps(zoo=header + textwrap.dedent(source)):
                for path_, sent, answer in [
                    ("zoo/plain", {}, 1),
                    ("zoo/guarded", {}, 2),
                    ("zoo/rate", {"stars": 3}, 3),
                    ("zoo/door", {}, 4),
                    ("zoo/group/count", {}, 5),
                    (f"zoo/group/{group.pk}/join", {"number": 6}, 6),
                    ("zoo/group/list", {}, [{"pk": group.pk, "name": "a"}]),
                ]:
                    self.assertEqual(self.post(path_, sent)["data"], answer)
                self.assertEqual([*self.errors("zoo/rate", {"stars": 6})], ["stars"])
                self.assertNotIn("zoo", str(checks.run_checks()))

    def test_a_record_of_a_model_without_endpoint_fails_like_an_import(self):
        source = """
            import ajax
            from django.contrib.auth.models import Group

            @ajax.validated
            def join(request, group: Group):
                pass
            """
        in_operation = """
            import ajax
            from django.contrib.auth.models import Group, Permission

            @ajax.register(Permission)
            class PermissionEndpoint(ajax.ModelEndpoint):
                @ajax.validated
                def join(self, request, groups: list[Group]):
                    pass
            """
        for text, line in ((source, 5), (in_operation, 7)):
            with self.subTest(text), self.apps(zoo=text):
                self.post("shop/hello", status=500)
                with self.assertRaisesMessage(SystemCheckError, "auth.Group") as caught:
                    call_command("check")
                message = "join takes records of a model that no endpoint serves. Regi"
                self.assertIn(message, str(caught.exception))
                self.assertIn(f"line {line}", str(caught.exception))
                self.assertNotIn("cannot be imported", str(caught.exception))
        with self.apps(zoo=f"{source}\n            ajax.endpoint.register(Group)"):
            self.post("zoo/join", {"group": 0}, status=400)
        ajax.endpoint.unregister(Group)
        recorded = """
            import ajax

            class Bad(ajax.BaseEndpoint):
                @ajax.validated
                def __call__(self, request, record):
                    pass

            bad = Bad()
            """
        with self.apps(zoo=recorded), self.assertLogs("django.request") as logs:
            self.post("shop/hello", status=500)
        self.assertIn("only an operation", logs.output[0])

    def test_a_validated_function_that_takes_something_before_request(self):
        source = """
            import ajax

            @ajax.login_required
            @ajax.validated
            def rate(user, request, stars: int):
                pass
            """
        with self.apps(zoo=source), self.assertLogs("django.request") as logs:
            self.post("shop/hello", status=500)
        self.assertIn("zoo.endpoints.rate must take request first", logs.output[0])

    def test_an_operation_takes_parameters_with_a_record_or_without(self):
        @ajax.validated
        def approve(self, request, record, published: bool = True):
            record.published = published
            record.save()
            return {"title": record.title, "is_same": record is self.record}

        @ajax.validated
        def rate(self, request, stars: int):
            return [stars, self.record and self.record.pk]

        def helper(self, request, record):
            raise AssertionError("A helper is no operation.")

        self.serve(Article, approve=approve, rate=rate, helper=helper)
        reply = self.post(f"{self.path}/approve")
        self.assertEqual(reply["data"], {"title": "First", "is_same": True})
        self.assertTrue(self.shown(self.article)["published"])
        self.post(f"{self.path}/approve", {"published": False})
        self.assertFalse(self.shown(self.article)["published"])
        self.assertEqual(
            [*self.errors(f"{self.path}/approve", {"record": 1})], ["record"]
        )
        self.post("shop/article/approve", status=400)
        self.post("shop/article/0/approve", status=404)
        self.assertEqual(
            self.post("shop/article/rate", {"stars": 1})["data"], [1, None]
        )
        rated = self.post(f"{self.path}/rate", {"stars": 1})["data"]
        self.assertEqual(rated, [1, self.article.pk])
        self.post(f"{self.path}/helper", status=404)
        self.serve(Article, can_get=no)
        self.post(f"{self.path}/approve", status=403)

    def test_an_operation_on_a_record_is_one_transaction_up_to_its_reply(self):
        def make(result):
            @ajax.validated
            def archive(self, request, record):
                record.title = "Changed"
                record.save()
                if isinstance(result, Exception):
                    raise result
                return result

            return archive

        for result, status in [
            (ajax.AJAXError(409, "No."), 409),
            (ValueError(), 500),
            (object(), 500),
            ("done", 200),
        ]:
            with self.subTest(result):
                self.serve(Article, archive=make(result))
                self.post(f"{self.path}/archive", status=status)
                title = "Changed" if status == 200 else "First"
                self.assertEqual(Article.objects.get().title, title)
        self.serve(Article, archive=lambda self, request: ajax.AJAXError(409, "No."))
        self.post(f"{self.path}/archive", status=409)

    def test_a_list_and_an_object_that_may_be_null_are_described(self):
        source = """
        import ajax

        @ajax.validated
        def draw(request, sizes: list[int] | None, options: dict | None):
            return [sizes, options]
        """
        with self.apps(zoo=source), self.settings(DEBUG=True):
            paths = self.client.get("/ajax/openapi.json").json()["paths"]
            self.assertEqual(self.post("zoo/draw")["data"], [None, None])
        content = paths["/zoo/draw.json"]["post"]["requestBody"]["content"]
        properties = content["application/json"]["schema"]["properties"]
        sizes = {"type": ["array", "null"], "items": {"type": ["integer"]}}
        self.assertEqual(properties["sizes"], sizes)
        self.assertEqual(properties["options"], {"type": ["object", "null"]})

    def test_an_empty_text_for_an_object_is_not_sent(self):
        source = """
        import ajax

        @ajax.validated
        def draw(request, size: dict, colors: dict | None, options: dict = 5):
            return [colors, options]
        """
        empty = {"colors": "", "options": ""}
        with self.apps(zoo=source):
            for is_form, size in ((False, {"width": 1}), (True, '{"width": 1}')):
                with self.subTest(is_form=is_form):
                    sent = {"size": size, **empty}
                    reply = self.post("zoo/draw", sent, form=is_form)
                    self.assertEqual(reply["data"], [None, 5])
                    sent = {"size": "", **empty}
                    reply = self.post("zoo/draw", sent, 400, is_form)
                    errors = {"size": ["This field is required."]}
                    self.assertEqual(reply["errors"], errors)


# --- Fields ---------------------------------------------------------------------------

import base64


class Duchy(Country):
    motto = models.CharField(max_length=20)


class Crate(models.Model):
    """Fields that a client may not write, or may not leave empty."""

    weight = models.IntegerField(default=1)
    doubled = models.GeneratedField(
        expression=models.F("weight") * 2,
        db_persist=True,
        output_field=models.IntegerField(),
    )
    slug = models.SlugField(editable=False, default="as-it-was")
    changed = models.DateTimeField(auto_now=True)
    made = models.DateField(auto_now_add=True)
    route = models.FilePathField(
        path=os.path.dirname(__file__), match="^test_ajax", blank=True
    )
    label = models.FileField(upload_to="labels")
    payers = models.ManyToManyField(User, related_name="+")
    carriers = models.ManyToManyField(User, related_name="+", through="CrateCarrier")
    guards = models.ManyToManyField(User, related_name="+", blank=True, editable=False)

    @property
    def size(self):
        return "heavy" if self.weight > 9 else "light"

    def stamp(self):
        return f"{self.weight} kg"


class CrateCarrier(models.Model):
    crate = models.ForeignKey(Crate, models.CASCADE)
    user = models.ForeignKey(User, models.CASCADE)


ajax.endpoint.register(Crate, OpenEndpoint)


class CodeField(models.TextField):
    """Text whose blanks matter: the form field of a project's own field says so."""

    def formfield(self, **kwargs):
        return super().formfield(strip=False, **kwargs)


class LiveManager(models.Manager):
    def get_queryset(self):
        return super().get_queryset().filter(is_deleted=False)


class Shelf(models.Model):
    """What is deleted is only hidden."""

    code = models.CharField(max_length=9, unique=True)
    is_deleted = models.BooleanField(default=False)
    objects = LiveManager()


class Jar(models.Model):
    """Columns that are not nullable, and keys to records that may be hidden."""

    tint = models.CharField(
        max_length=9, choices=[(" a", "A"), ("b", "B")], default="b"
    )
    script = CodeField(blank=True)
    text = models.TextField(blank=True)
    title = models.CharField(max_length=20, default="jar")
    count = models.IntegerField(default=1)
    spare = models.IntegerField(default=1, blank=True)
    worth = models.DecimalField(max_digits=30, decimal_places=2, default=0)
    lasts = models.DurationField(default=datetime.timedelta)
    sealed = models.DateTimeField(blank=True)
    ok = models.BooleanField(default=True)
    data = models.JSONField(default=dict, blank=True)
    raw = models.BinaryField(default=b"x", blank=True, editable=True)
    owner = models.ForeignKey(User, models.CASCADE, blank=True)
    shelf = foreign_key(Shelf)
    by_code = foreign_key(Shelf, to_field="code")
    lost = foreign_key(Shelf, db_constraint=False)
    twin = models.OneToOneField(
        Shelf, models.CASCADE, null=True, blank=True, related_name="+"
    )
    shelves = models.ManyToManyField(Shelf, blank=True, related_name="+")
    tags = TaggableManager(blank=True)

    def clean(self):
        if self.sealed is None:
            self.sealed = timezone.now()
        if self.owner_id is None:
            self.owner = User.objects.get(username="ann")


class Coin(models.Model):
    """The database gives a default: until it is saved, that is an expression."""

    worth = models.DecimalField(max_digits=9, decimal_places=2, db_default=2)


ajax.endpoint.register([Shelf, Jar, Coin], OpenEndpoint)


class Strict(models.Model):
    """A model whose relations have to have a value."""

    fans = models.ManyToManyField(User)
    tags = TaggableManager()


ajax.endpoint.register(Strict, OpenEndpoint)

#: What each kind of field stores for a JSON value, and for its text in a form.
TAKEN = [  # field, sent, stored
    ("char", "abc", "abc"),
    ("char", 5, "5"),
    ("char", "ä€😀", "ä€😀"),
    ("kind", "a", "a"),
    ("text", "x \n" * 999 + "x", "x \n" * 999 + "x"),
    ("slug", "a-b", "a-b"),
    ("email", "a@b.de", "a@b.de"),
    ("url", "https://a.de/", "https://a.de/"),
    ("address", "::1", "::1"),
    ("address", "10.0.0.1", "10.0.0.1"),
    ("uuid", "12345678" * 4, uuid.UUID("12345678" * 4)),
    ("integer", -5, -5),
    ("integer", "7", 7),
    ("positive", 0, 0),
    ("big", 2**63 - 1, 2**63 - 1),
    ("big", str(-(2**63)), -(2**63)),
    ("decimal", "9.5", Decimal("9.50")),
    ("decimal", 1, Decimal("1.00")),
    ("decimal", 0.25, Decimal("0.25")),
    ("decimal", "0E+999999", Decimal("0.00")),
    ("float", 1.5, 1.5),
    ("float", 2, 2.0),
    ("float", "1e3", 1000.0),
    ("date", "2024-02-29", datetime.date(2024, 2, 29)),
    ("time", "12:30", datetime.time(12, 30)),
    ("moment", "2024-07-01T12:00+05:30", parse_datetime("2024-07-01T06:30Z")),
    ("moment", "2024-07-01T12:00", parse_datetime("2024-07-01T10:00Z")),
    ("duration", "1 00:00:00", datetime.timedelta(1)),
    ("duration", "P1D", datetime.timedelta(1)),
    ("json", {"a": [1, None, "ä"]}, {"a": [1, None, "ä"]}),
    ("json", "x", "x"),
    ("json", 0, 0),
    ("json", False, False),
    ("json", [], []),
    ("binary", "AAEC", b"\0\1\2"),
    ("binary", "AA\nEC\n", b"\0\1\2"),
    ("binary", " AA\r\n\tEC\r\n", b"\0\1\2"),
    ("binary", "+/+/", b"\xfb\xff\xbf"),
    ("country", "fr", "fr"),
    ("twin", 7002, 7002),
]

#: Values that JSON and forms read in different ways.
READ_BY = [  # field, sent, in a form, stored
    ("char", None, False, None),
    ("char", "", False, ""),
    ("char", "", True, None),
    ("text", "", True, ""),
    ("char", "null", True, "null"),
    ("text", "null", True, "null"),
    ("integer", None, False, None),
    ("integer", "", True, None),
    ("integer", "null", True, None),
    ("moment", "null", True, None),
    ("json", None, False, None),
    ("json", "null", True, None),
    ("address", "", True, None),
    ("boolean", None, False, None),
    ("boolean", "", True, None),
    ("ticked", "", True, False),
    ("country", None, False, None),
    ("country", "", True, None),
    ("country", {"pk": "fr", "name": "x"}, False, "fr"),
    ("twin", "null", True, None),
    ("twin", {"pk": 7002}, False, 7002),
    *(
        (field, sent, type(sent) is str, value)
        for field in ("boolean", "ticked")
        for value, all_sent in [
            (True, [True, 1, "true", "True", "TRUE", "on", "On", "t", "1"]),
            (False, [False, 0, "false", "False", "FALSE", "off", "OFF", "f", "0"]),
        ]
        for sent in all_sent
    ),
]

#: Values that each kind of field refuses, in JSON and, if it is a text, in a form.
REFUSED = {
    "char": ["abcdef", True],
    "kind": ["c", 1],
    "text": [False],
    "email": ["a"],
    "url": ["javascript:alert(1)", "a"],
    "slug": ["a b"],
    "words": [None],
    "address": ["10.0.0.256", "x", 5],
    "uuid": ["x", -1, 1.5],
    "integer": ["x", 1.5, True, 10**40, 2**63, "1e3", "9" * 5000],
    "big": [2**63, -(2**63) - 1],
    "positive": [-1, 2**63],
    "decimal": ["x", "NaN", "Infinity", "1e999999", "1000", "0.001", "1e-99999", 1e99],
    "float": ["x", "nan", "inf", "1e999", 10**400],
    "boolean": ["x", 2],
    "ticked": ["x", 2, None],
    "date": ["2023-02-29", "x", 5, True, 1.5, "0000-01-01"],
    "time": ["25:00", "x", 5, 1.5],
    "moment": ["2024-03-31T02:30", "x", 5, True],
    "duration": ["x", "99999999999 00:00:00", True],
    "binary": [
        "x",
        "A===",
        "ä",
        5,
        True,
        "AAECAwQF",
        "A!AEC",
        "AA EC",
        "AA\u00a0EC",
        "data:,AAEC",
        "AA-_",
        "AA==AA==",
        "*",
    ],
    "file": [5, True],
    "country": ["zz", "a b", 5, True, {"pk": None}, {"pk": {"pk": "fr"}}],
    "twin": ["x", 0, 1.5, 10**40, {"pk": "x"}, 7001],
    "keepers": [
        "x",
        '["x"]',
        '{"pk": 1}',
        "[[]]",
        0,
        None,
        [0],
        [None],
        [{}],
        [True],
        [2**70],
        [1.5],
        [7001] * 1001,
    ],
    "tags": [5, None, [5], [None], [{}], ["a" * 101], [*map(str, range(101))]],
}

JSON, FORM = ENCODINGS = ({}, {"form": True})
QUERY = {"content_type": "application/x-www-form-urlencoded"}

#: Values of fields with several; before, keepers are [7001] and tags ["sea"].
SEVERAL = [  # field, sent, encoding, stored
    ("keepers", ["7001", {"pk": 7002, "x": 1}, 7002], JSON, [7001, 7002]),
    ("keepers", [7001, 7002], FORM, [7001, 7002]),
    ("keepers", "[7001, 7002]", FORM, [7001, 7002]),
    ("keepers", "keepers[]=7001&keepers[]=7002", QUERY, [7001, 7002]),
    ("keepers", "keepers[]=7002", QUERY, [7002]),
    ("keepers", "keepers[]=", QUERY, []),
    ("keepers", [7002] * 1000, JSON, [7002]),
    ("keepers", [], JSON, []),
    ("keepers", "", JSON, []),
    ("keepers", "", FORM, []),
    ("keepers", "[]", FORM, []),
    ("tags", ["b", "a", "b"], JSON, ["a", "b"]),
    ("tags", "a, b", JSON, ["a", "b"]),
    ("tags", [{"pk": 9, "name": "a", "slug": "z"}, "b"], JSON, ["a", "b"]),
    ("tags", '"a, b" c', JSON, ["a, b", "c"]),
    ("tags", "a b", FORM, ["a", "b"]),
    ("tags", ["a", "b c"], FORM, ["a", "b c"]),
    ("tags", [], JSON, []),
    ("tags", "tags[]=a&tags[]=b", QUERY, ["a", "b"]),
    ("tags", "tags[]=a b", QUERY, ["a b"]),
    ("tags", "", FORM, []),
    ("tags", "", JSON, []),
    ("tags", [*"abcde"] * 20, JSON, [*"abcde"]),
    ("tags", '["b", "a"]', JSON, ["a", "b"]),
    ("tags", '["a", {"name": "b c"}]', FORM, ["a", "b c"]),
    ("tags", "[]", FORM, []),
    ("tags", "[]", JSON, []),
    ("tags", "[x] y", FORM, ["[x]", "y"]),
    ("tags", "tags[]=", QUERY, []),
    ("tags", "tags[]=null", QUERY, ["null"]),
    ("tags", "null", JSON, ["null"]),
    ("tags", [" ", "a ", "a", ""], JSON, ["a"]),
    ("tags", [" "], JSON, []),
    ("tags", " a ,  ", FORM, ["a"]),
]


class Refusal(str):
    """The start of the message for a value that is refused."""


IS_REQUIRED = Refusal("This field is required.")
IS_BLANK = Refusal("This field cannot be blank.")
IS_NULL = Refusal("This field cannot be null.")
NO_CHOICE = Refusal("Select a valid choice. ")

#: What a text that is empty or blank, or a form's `null`, means: the value that is
#: stored, or a refusal. What is stored before is not empty.
SEALED = parse_datetime("2020-01-02T03:04:05Z")
EMPTY = [  # model, field, sent, in a form, stored or message
    ("specimen", "char", "", JSON, ""),
    ("specimen", "char", "", FORM, None),
    ("specimen", "char", "  ", JSON, ""),
    ("specimen", "char", "  ", FORM, None),
    ("specimen", "email", "", FORM, None),
    ("specimen", "kind", "", FORM, None),
    ("specimen", "text", "", FORM, ""),
    ("specimen", "words", "", FORM, ""),
    *(
        ("specimen", field, text, encoding, None)
        for field in (
            "address", "uuid", "integer", "big", "positive", "decimal", "float",
            "boolean", "date", "time", "moment", "duration", "binary", "country",
            "twin",
        )
        for text, encoding in [("", JSON), ("", FORM), ("null", FORM)]
    ),
    ("specimen", "integer", "  ", JSON, None),
    ("specimen", "boolean", " \n", FORM, None),
    ("specimen", "json", "", JSON, ""),
    ("specimen", "json", "  ", JSON, "  "),
    ("specimen", "json", "", FORM, None),
    ("specimen", "json", "null", FORM, None),
    ("jar", "title", "", JSON, IS_BLANK),
    ("jar", "title", " \t\n ", JSON, IS_BLANK),
    ("jar", "title", " ", FORM, IS_BLANK),
    ("jar", "text", " ", FORM, ""),
    ("jar", "tint", "", JSON, IS_BLANK),
    ("jar", "count", "", JSON, IS_REQUIRED),
    ("jar", "count", " ", FORM, IS_REQUIRED),
    ("jar", "count", "null", FORM, IS_NULL),
    ("jar", "spare", "", JSON, 5),
    ("jar", "spare", "", FORM, 5),
    ("jar", "worth", "", JSON, IS_REQUIRED),
    ("jar", "lasts", "", JSON, IS_REQUIRED),
    ("jar", "lasts", "", FORM, IS_REQUIRED),
    ("jar", "sealed", "", JSON, SEALED),
    ("jar", "sealed", "", FORM, SEALED),
    ("jar", "sealed", None, JSON, IS_NULL),
    ("jar", "ok", "", JSON, False),
    ("jar", "ok", " ", FORM, False),
    ("jar", "ok", "null", FORM, IS_NULL),
    ("jar", "data", "", JSON, ""),
    ("jar", "data", "", FORM, {"a": 1}),
    ("jar", "data", "null", FORM, IS_NULL),
    ("jar", "data", '"null"', FORM, "null"),
    ("jar", "data", None, JSON, IS_NULL),
    ("jar", "raw", "", JSON, b""),
    ("jar", "raw", " ", FORM, b""),
    ("jar", "raw", "null", FORM, IS_NULL),
    ("jar", "raw", "null", JSON, base64.b64decode("null")),
    ("jar", "owner", "", JSON, 7001),
    ("jar", "owner", "", FORM, 7001),
    ("jar", "owner", "null", FORM, IS_NULL),
    ("jar", "tags", "null", FORM, IS_NULL),
    ("jar", "shelves", "null", FORM, NO_CHOICE),
    ("jar", "shelves", [""], JSON, NO_CHOICE),
]  # fmt: skip

#: Texts with blanks around them, and what is stored of them.
STRIPPED = [  # model, field, sent, stored or message
    ("specimen", "char", " ab \n", "ab"),
    ("specimen", "text", "\n a\n b \n", "a\n b"),
    ("specimen", "email", " a@b.de ", "a@b.de"),
    ("specimen", "slug", " a ", "a"),
    ("specimen", "uuid", " " + "12345678" * 4, uuid.UUID("12345678" * 4)),
    ("specimen", "integer", " 7 ", 7),
    ("specimen", "decimal", " 7.5 ", Decimal("7.50")),
    ("specimen", "float", "\t7.5 ", 7.5),
    ("specimen", "boolean", " TRUE ", True),
    ("specimen", "date", " 2024-02-29 ", datetime.date(2024, 2, 29)),
    ("specimen", "time", " 12:30 ", datetime.time(12, 30)),
    ("specimen", "moment", " 2024-07-01T12:00Z ", parse_datetime("2024-07-01T12:00Z")),
    ("specimen", "duration", " 1:00 ", datetime.timedelta(minutes=1)),
    ("specimen", "address", " ::1 ", "::1"),
    ("specimen", "binary", " AAEC\n", b"\0\1\2"),
    # As in Django's forms, a choice is taken as it is, and a field may say so.
    ("jar", "tint", " a", " a"),
    ("jar", "tint", " b", NO_CHOICE),
    ("jar", "script", "  x = 1\n", "  x = 1\n"),
]

#: What is said of a value that cannot be read: the words of Django's forms.
MESSAGES = [  # field, sent, message
    ("char", {}, "Enter a valid value."),
    ("kind", "c", "Select a valid choice. c is not one of the available choices."),
    ("address", "x", "Enter a valid IPv4 or IPv6 address."),
    ("uuid", "x", "Enter a valid UUID."),
    ("integer", "x", "Enter a whole number."),
    ("integer", [1], "Enter a whole number."),
    ("positive", 1.5, "Enter a whole number."),
    ("big", True, "Enter a whole number."),
    ("decimal", "x", "Enter a number."),
    ("float", "nan", "Enter a number."),
    ("boolean", "x", "“x” value must be either True"),
    ("boolean", {}, "Enter a valid value."),
    ("date", "x", "Enter a valid date."),
    ("date", "2023-02-29", "Enter a valid date."),
    ("time", "25:00", "Enter a valid time."),
    ("time", "12:00+01:00", "Enter a valid time."),
    ("moment", "x", "Enter a valid date/time."),
    ("moment", "0001-01-01T00:00Z", "Enter a valid date/time."),
    ("duration", "x", "Enter a valid duration."),
    ("binary", "ä", "Enter a valid value."),
    ("file", 5, "No file was submitted. Check the encoding type on the form."),
    ("country", [], "Select a valid choice. That choice is not one of the available"),
    ("country", "zz", "country with pk zz does not exist."),
    ("keepers", 5, "Enter a list of values."),
    (
        "keepers",
        ["x"],
        "Select a valid choice. That choice is not one of the available",
    ),
    ("keepers", [0], "user with pk 0 does not exist."),
    ("tags", 5, "Send the tags as a text or as a list of names."),
    ("tags", [*map(str, range(101))], "Send at most 100 tags."),
]

#: Values that a database could not give back, and the nearest one that it could.
BIG_DECIMALS = [  # sent, whether SQLite keeps it
    ("99999999999999.99", False),
    ("9999999999999.99", True),
    ("1234567890123456.78", False),
    ("9007199254740993", False),
    ("9" * 28, False),
    ("1" + "0" * 27, True),
    ("-0.01", True),
]

#: Date-times so near to the ends of the calendar that a time zone matters.
ENDS = [  # sent, whether it is within
    ("0001-01-01T00:00:00", False),
    ("0001-01-01T23:59:59Z", False),
    ("0001-01-02T13:59:59+14:00", False),
    ("0001-01-02T00:00:00Z", True),
    ("9999-12-31T09:59:59+10:00", True),
    ("9999-12-30T23:59:59.999999Z", True),
    ("9999-12-31T00:00:00Z", False),
    ("9999-12-31T23:59:59-14:00", False),
    ("9999-12-31T23:59:59", False),
]

NAMES = ["title", "body", "readers"]
#: Attributes of endpoints, and the fields that are then shown and written.
ATTRIBUTES = [  # record, attributes, sent, answered besides the pk (or keys refused)
    (
        "article",
        {"fields": ["body", "title"]},
        {"body": "x"},
        {"title": "First", "body": "x"},
    ),
    (
        "article",
        {"fields": NAMES, "exclude": NAMES[1:]},
        {"title": "x"},
        {"title": "x"},
    ),
    (
        "article",
        {"fields": NAMES, "exclude": ["body"]},
        {"body": "x", "tags": []},
        ["body", "tags"],
    ),
    ("article", {"fields": ["pk", "title"]}, {"pk": 0, "id": 0}, {"title": "First"}),
    ("article", {"fields": ["id", "title"]}, {"pk": 0, "id": 0}, {"title": "First"}),
    *(
        (
            "article",
            {"fields": NAMES, readonly: ["title", "readers"]},
            {"title": "x", "body": "x", "readers": [7001]},
            {"title": "First", "body": "x", "readers": []},
        )
        for readonly in ("readonly_fields", "immutable_fields")
    ),
    (
        "crate",
        {"fields": ["slug", "guards"]},
        {"slug": "new", "guards": [7001]},
        {"slug": "new", "guards": [7001]},
    ),
    (
        "crate",
        {"fields": ["slug"], "readonly_fields": ["slug"]},
        {"slug": "new"},
        {"slug": "as-it-was"},
    ),
    # A FilePathField takes the paths in its folder.
    ("crate", {"fields": ["route"]}, {"route": __file__}, {"route": __file__}),
    ("crate", {"fields": ["route"]}, {"route": "/etc/passwd"}, ["route"]),
    # The database and the through model keep their values.
    (
        "crate",
        {"fields": ["weight", "doubled", "carriers"]},
        {"weight": 5, "doubled": 9, "carriers": []},
        {"weight": 5, "doubled": 10, "carriers": [7001]},
    ),
    (
        "crate",
        {
            "fields": ["weight", "size", "stamp", "shout", "two"],
            "shout": lambda self, record: f"{record.weight}!",
            "two": property(lambda self: 2),
        },
        {"weight": 10, "size": "x", "stamp": "x", "shout": "x", "two": "x"},
        {"weight": 10, "size": "heavy", "stamp": "10 kg", "shout": "10!", "two": 2},
    ),
    ("other", {}, {"username": "eve"}, {"username": "bob"}),
    (
        "other",
        {},
        {"password": "x", "email": "x", "groups": []},
        ["password", "email", "groups"],
    ),
    ("other", {"fields": "__all__"}, {"password": "x"}, ["password"]),
    (
        "other",
        {"fields": ["username", "email", "is_staff"]},
        {"username": "eve", "email": "x@example.com", "is_staff": True},
        {"username": "eve", "email": "x@example.com", "is_staff": True},
    ),
]


def fill_form(model, shown):
    """Return what a form sends that is filled from what `get` shows of a record."""
    columns = {field.name: field for field in model._meta.concrete_fields}
    relations = {field.name: field for field in model._meta.many_to_many}
    texts = {}
    for key, value in shown.items():
        if isinstance(columns.get(key), models.JSONField):
            value = json.dumps(value)
        elif isinstance(relations.get(key), TaggableManager):
            value = json.dumps([tag["name"] for tag in value])
        elif isinstance(value, dict):
            value = value["pk"]
        elif value is None or value == []:
            value = ""
        elif isinstance(value, str):
            value = value.replace("\n", "\r\n")
        texts[key] = value
    return texts


class Fields(AjaxTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        User.objects.filter(pk=cls.user.pk).update(is_superuser=True)
        cls.keeper = User.objects.create(pk=7001, username="kim")
        User.objects.create(pk=7002, username="lou")
        Country.objects.create(code="fr", name="France")
        cls.specimen = Specimen.objects.create(pk=7001)
        Specimen.objects.create(pk=7002)
        cls.path = "shop/specimen/7001/update"
        cls.crate = Crate.objects.create(label="labels/old.txt")
        CrateCarrier.objects.create(crate=cls.crate, user=cls.keeper)

    def stored(self, field, pk=7001):
        value = Specimen.objects.values_list(field, flat=True).get(pk=pk)
        return repr(bytes(value) if isinstance(value, memoryview) else value)

    def path_of(self, record):
        return f"shop/{record._meta.model_name}/{record.pk}/update"

    def update(self, record, form=False, **sent):
        return self.post(self.path_of(record), sent, form=form)["data"]

    def refused(self, sent, record=None, form=False):
        """Return the keys of the errors of an update."""
        return [*self.errors(self.path_of(record or self.specimen), sent, form=form)]

    def upload(self, name="a.txt", content=b"words"):
        return SimpleUploadedFile(name, content)

    def test_each_kind_of_field_reads_json_and_the_same_text_in_a_form(self):
        for field, sent, stored in TAKEN:
            with self.subTest(field, sent=sent), timezone.override("Europe/Berlin"):
                pk = self.post("shop/specimen", {field: sent})["data"]["pk"]
                self.assertEqual(self.stored(field, pk), repr(stored))
                self.post(f"shop/specimen/{pk}/delete")
                text = json.dumps(sent) if field == "json" else str(sent)
                self.update(self.specimen, True, **{field: text})
                self.assertEqual(self.stored(field), repr(stored))

    def test_null_empty_text_booleans_and_objects(self):
        full = {"char": "x", "text": "x", "integer": 1, "json": 1, "address": "::1"}
        full |= {"moment": timezone.now(), "country": "fr", "twin": 7001}
        for field, sent, form, stored in READ_BY:
            with self.subTest(field, sent=sent, form=form):
                other = dict.fromkeys(("boolean", "ticked"), stored is not True)
                Specimen.objects.filter(pk=7001).update(**full | other)
                self.update(self.specimen, form, **{field: sent})
                self.assertEqual(self.stored(field), repr(stored))

    def test_each_kind_of_field_refuses_wrong_json(self):
        Specimen.objects.create(twin_id=7001)  # Now the twin is taken.
        odd = {"keepers": [{}], "tags": [{}], "twin": [{}, []]}
        for field, values in REFUSED.items():
            for sent in [*values, *odd.get(field, [{}, [], [[1]], {"pk": 1}])]:
                berlin = timezone.override("Europe/Berlin")
                with self.subTest(field, sent=str(sent)[:20]), berlin:
                    self.assertEqual(self.refused({field: sent}), [field])
                    errors = self.errors("shop/specimen", {field: sent})
                    self.assertEqual([*errors], [field])

    def test_each_kind_of_field_refuses_wrong_texts_files_and_repeated_keys(self):
        for field in REFUSED.keys() - {"words"}:
            values = [value for value in REFUSED[field] if isinstance(value, str)]
            values += [self.upload("[1]")] * (field != "file")
            values += [["1", "1"]] * (field not in ("file", "keepers", "tags"))
            for sent in values:
                berlin = timezone.override("Europe/Berlin")
                with self.subTest(field, sent=str(sent)[:20]), berlin:
                    self.assertEqual(self.refused({field: sent}, form=True), [field])

    def test_an_empty_value_for_a_required_field_is_refused(self):
        nulls = ("title", "price", "published", "category", "readers", "tags")
        rows = [(self.article, name, None, False) for name in nulls]
        rows += [(self.article, name, "", True) for name in ("price", "category")]
        rows += [(self.crate, "payers", [], False), (self.crate, "payers", "", True)]
        rows += [(self.crate, "payers", "", False)]
        self.crate.payers.set([self.keeper])
        for record, field, sent, form in rows:
            with self.subTest(field, form=form):
                self.assertEqual(self.refused({field: sent}, record, form), [field])

    def test_the_validators_of_a_foreign_key_are_run(self):
        refuse = mock.Mock(side_effect=ValidationError("Not this one."))
        category = Article._meta.get_field("category")
        with mock.patch.dict(vars(category), validators=[refuse]):
            sent = {"category": self.news.pk}
            self.assertEqual(self.refused(sent, self.article), ["category"])

    def test_an_absent_key_takes_the_default_or_keeps_the_value(self):
        values = {"ticked": False, "boolean": True, "integer": 5}
        Specimen.objects.filter(pk=7001).update(**values)
        self.specimen.keepers.set([self.keeper])
        self.specimen.tags.set(["sea"])
        whole = self.shown(self.specimen)
        for form in (False, True):
            made = self.post("shop/specimen", {"char": "x"}, form=form)["data"]
            self.assertEqual((made["ticked"], made["boolean"]), (True, None))
            kept = self.update(self.specimen, form, char=f"{form}")
            self.assertEqual(kept, whole | {"char": f"{form}"})

    def test_many_to_many_values_and_tags(self):
        for field, sent, encoding, stored in SEVERAL:
            with self.subTest(str(sent)[:50], encoding=encoding):
                self.specimen.keepers.set([self.keeper])
                self.specimen.tags.set(["sea"])
                sent = sent if encoding is QUERY else {field: sent}
                data = self.post(self.path, sent, **encoding)["data"]
                tags = sorted(tag["name"] for tag in data["tags"])
                shown = tags if field == "tags" else data["keepers"]
                self.assertEqual(shown, stored)

    def test_a_pk_is_not_taken_for_the_value_of_another_field(self):
        other = Country.objects.create(code="zz", name="fr")
        keys = {"article": self.article, "origin": other, "maker": other}
        pressing = Pressing.objects.create(**keys)
        self.assertEqual(self.update(pressing, origin="fr")["origin"]["pk"], "fr")

    def test_files_are_uploaded_kept_cleared_and_replaced(self):
        url = self.update(self.crate, True, label=self.upload())["label"]
        self.assertRegex(url, r"^/media/labels/a.*\.txt$")
        for sent, form in [(url, False), ("", True), ("elsewhere.txt", True)]:
            self.assertEqual(self.update(self.crate, form, label=sent)["label"], url)
        for sent, form in [(None, False), ("null", True)]:
            self.assertEqual(self.refused({"label": sent}, self.crate, form), ["label"])
            self.update(self.specimen, True, file=self.upload())
            self.assertIsNone(self.update(self.specimen, form, file=sent)["file"])
        odd = (self.upload(content=b""), self.upload("a" * 200))
        for sent in (*odd, [self.upload()] * 2):
            self.assertEqual(self.refused({"file": sent}, form=True), ["file"])
        self.assertEqual([*self.errors("shop/crate", {"payers": [7001]})], ["label"])
        # A file can be replaced by another one of the same name.
        field = Specimen._meta.get_field("file")
        for folder in (field.upload_to, ""):
            with mock.patch.object(field, "upload_to", folder):
                sent = self.upload(f"same{folder}.txt".replace("/", ""))
                url = self.update(self.specimen, True, file=sent)["file"]
                sent = self.upload(url.rpartition("/")[2], b"new")
                self.update(self.specimen, True, file=sent)
            with Specimen.objects.get(pk=7001).file.open() as file:
                self.assertEqual(file.read(), b"new")

    def test_a_json_value_of_another_type_is_a_change(self):
        for value in ({"n": 1}, {"n": True}, {"n": 1}, [0], [False]):
            self.update(self.specimen, json=value)
            self.assertEqual(self.stored("json"), repr(value))
        # A change that a hook makes inside a value is saved, too.
        self.serve(Specimen, prepare_record=lambda *args: args[2].json.append("more"))
        self.update(self.specimen)
        self.assertEqual(self.stored("json"), "[False, 'more']")

    def test_only_date_times_well_inside_the_calendar_are_taken(self):
        class WhenForm(forms.Form):
            moment = forms.DateTimeField()

        self.serve(WhenForm)
        names = ("specimen", "specimenform", "whenform", "specimen/list")
        paths = [self.path, *(f"shop/{name}" for name in names)]
        zones = ("Europe/Berlin", "Pacific/Kiritimati", "Pacific/Honolulu")
        worlds = [override_settings(USE_TZ=False), *map(timezone.override, zones)]
        if connection.vendor == "sqlite":
            worlds += map(database_in, zones)
        for number, world in enumerate(worlds):
            with world, transaction.atomic():
                for path, (sent, is_within) in itertools.product(paths, ENDS):
                    with self.subTest(number, path=path, sent=sent):
                        status = 200 if is_within else 400
                        reply = self.post(path, {"moment": sent}, status=status)
                        expected = [] if is_within else ["moment"]
                        self.assertEqual([*reply.get("errors", ())], expected)
                # The values that were taken break no filter and no update.
                filters = {"moment__date": "2024-01-01", "moment__gte": ENDS[3][0]}
                self.post("shop/specimen/list", filters)
                for specimen in Specimen.objects.all():
                    self.assertEqual(self.update(specimen), self.shown(specimen))
                transaction.set_rollback(True)
        # A duration beyond its column is refused. PostgreSQL takes each of Python's.
        status = 200 if connection.features.has_native_duration_field else 400
        for path_ in (self.path, "shop/specimenform"):
            self.post(path_, {"duration": "999999999 23:59:59"}, status)

    def test_unknown_keys_are_refused_with_a_suggestion(self):
        path = self.path_of(self.article)
        errors = self.errors(path, {"titel": "x"})
        self.assertEqual(errors, {"titel": ['Unknown key. Did you mean "title"?']})
        # The errors of a hidden field, a column and nonsense look the same.
        for key in ("secret", "secrex", "category_id", "articles", "__class__", ""):
            [message] = self.errors(path, {key: "x"})[key]
            self.assertTrue(message.startswith("Unknown key."))
            self.assertNotIn('"secret"', message)
        # Looking for what may be meant takes long.
        many = dict.fromkeys(map(str, range(500)))
        self.assertEqual(len(self.errors(path, many)), 20)
        self.assertEqual(self.refused({"plan": self.upload()}, form=True), ["plan"])
        self.update(self.specimen, True, csrfmiddlewaretoken="x")

    def test_a_record_that_was_read_can_be_sent_back_whole(self):
        self.post(self.path, {field: sent for field, sent, _stored in TAKEN})
        self.update(self.specimen, True, file=self.upload(), keepers=7001, tags="a")
        self.crate.payers.set([self.keeper])
        for record in (self.specimen, self.article, self.crate):
            with self.subTest(record):
                whole = self.shown(record)
                for ignored in ({}, {"id": 0, "pk": 0}):
                    self.assertEqual(self.update(record, **whole | ignored), whole)
        whole = self.shown(self.article) | {"tags": []}
        made = self.post("shop/article", whole | {"id": whole["pk"]})["data"]
        self.assertNotEqual(made["pk"], whole["pk"])
        self.assertEqual(made | {"pk": whole["pk"]}, whole | {"author": made["author"]})

    def test_attributes_choose_the_fields_that_are_shown_and_written(self):
        for name, attributes, sent, answered in ATTRIBUTES:
            with self.subTest(name, **attributes), transaction.atomic():
                record = getattr(self, name)
                self.serve(type(record), **attributes)
                if isinstance(answered, list):
                    self.assertEqual(self.refused(sent, record), answered)
                else:
                    data = self.update(record, **sent)
                    self.assertEqual(data, {"pk": record.pk, **answered})
                transaction.set_rollback(True)
            self.doCleanups()

    def test_all_fields_are_the_editable_fields_of_the_model(self):
        sent = {"slug": "new", "guards": [7001], "doubled": 9, "carriers": []}
        sent |= {"made": "1999-01-01", "changed": "x"}
        whole = self.shown(self.crate)
        for fields in (None, "__all__"):
            self.serve(Crate, fields=fields)
            self.assertEqual(self.update(self.crate, **sent), whole)
        self.serve(Article, fields="__all__", exclude=())
        self.assertEqual(self.update(self.article, secret="told")["secret"], "told")

    def test_a_natural_key_is_written_on_create_if_fields_names_it(self):
        named = {"fields": ["code", "name"]}
        rows = [
            (named, True),
            ({"fields": ["pk", "name"]}, True),
            *(({"fields": fields}, False) for fields in (None, "__all__", ["name"])),
            (named | {"readonly_fields": ["code"]}, False),
            (named | {"readonly_fields": ["pk"]}, False),
            (named | {"exclude": ["code"]}, False),
            ({"fields": ["pk", "name"], "immutable_fields": ["code"]}, False),
        ]
        for (attributes, is_written), key in itertools.product(rows, ("code", "pk")):
            with self.subTest(key=key, **attributes), transaction.atomic():
                self.serve(Country, **attributes)
                sent = {key: "xy", "name": "X"}
                if is_written:
                    made = self.post("shop/country", sent)["data"]
                    self.assertEqual(made, {"pk": "xy", "name": "X"})
                    kept = self.update(Country(pk="xy"), code="zz", pk="zz")
                    self.assertEqual(kept, made)
                    self.assertEqual(
                        {*self.errors("shop/country", {"name": "Y"})}, {"pk"}
                    )
                    for wrong in ("a b", "abc", "", None):
                        errors = self.errors("shop/country", {"name": "Y", key: wrong})
                        # It was sent as `key`, and the record shows it as its pk.
                        expected = key if wrong is None else "pk"
                        self.assertEqual([*errors], [expected])
                else:  # A record needs a key.
                    errors = self.errors("shop/country", sent)
                    self.assertEqual(errors, {"pk": ["This field cannot be blank."]})
                    self.assertFalse(Country.objects.filter(name="X").exists())
                transaction.set_rollback(True)
            self.doCleanups()
        # The key may be the parent's, or a relation.
        self.serve(Duchy, fields=["code", "name", "motto"])
        for key, code in (("pk", "du"), ("code", "dv")):
            made = self.post("shop/duchy", {key: code, "name": key, "motto": "M"})
            self.assertEqual(made["data"], {"pk": code, "name": key, "motto": "M"})
        named = {"fields": ["pk", "country", "share"]}
        for readonly in ("pk", "country"):
            with self.subTest(readonly=readonly):
                self.serve(Royalty, readonly_fields=[readonly], **named)
                errors = self.errors("shop/royalty", {"country": "fr"})
                self.assertEqual([*errors], ["country"])
                self.doCleanups()
        self.serve(Royalty, **named)
        made = self.post("shop/royalty", {"country": "fr"})["data"]
        self.assertEqual(made["pk"], "fr")

    def make_jar(self, **values):
        """Return a jar in which no column is empty."""
        usual = {
            "text": "text",
            "count": 5,
            "spare": 5,
            "worth": 5,
            "lasts": datetime.timedelta(hours=5),
            "sealed": SEALED,
            "data": {"a": 1},
            "owner_id": 7001,
        }
        jar = Jar.objects.create(**usual | values)
        jar.tags.add("sea")
        return jar

    def make_specimen(self):
        """Return a specimen with a value for each kind of column."""
        values = {field: stored for field, _sent, stored in TAKEN}
        country, twin = values.pop("country"), values.pop("twin")
        specimen = Specimen.objects.create(
            words=" two  words ", boolean=False, **values, country_id=country
        )
        Specimen.objects.filter(pk=specimen.pk).update(twin=twin)
        specimen.keepers.set([7001, 7002])
        specimen.tags.add("sea", "deep sea")
        return specimen

    def get_column(self, record, field):
        """Return what is stored in a column of a record."""
        rows = type(record)._base_manager.filter(pk=record.pk)
        value = rows.values_list(field, flat=True).get()
        return bytes(value) if isinstance(value, memoryview) else value

    def check_update(self, model, field, sent, encoding, expected):
        """Check what an update stores for a value, or that it is refused; undo it."""
        with self.subTest(model, field=field, sent=sent, **encoding):
            with transaction.atomic():
                record = getattr(self, f"make_{model}")()
                path_ = self.path_of(record)
                if isinstance(expected, Refusal):
                    errors = self.errors(path_, {field: sent}, **encoding)
                    self.assertEqual([*errors], [field])
                    self.assertTrue(errors[field][0].startswith(expected), errors)
                else:
                    self.post(path_, {field: sent}, **encoding)
                    stored = self.get_column(record, field)
                    types = (type(stored), type(expected))
                    self.assertEqual((stored, types[0]), (expected, types[1]))
                transaction.set_rollback(True)

    def test_an_empty_text_means_what_djangos_forms_make_of_it(self):
        for model, field, sent, encoding, expected in EMPTY:
            self.check_update(model, field, sent, encoding, expected)

    def test_an_empty_text_on_create_takes_the_default_or_what_clean_sets(self):
        for encoding in ENCODINGS:
            sent = dict.fromkeys(["sealed", "spare", "owner"], "")
            made = self.post("shop/jar", sent, **encoding)["data"]
            self.assertIsNotNone(made["sealed"])
            self.assertEqual((made["spare"], made["owner"]["pk"]), (1, self.user.pk))
        made = self.post("shop/jar", {"data": ""}, form=True)["data"]
        self.assertEqual(made["data"], {})

    def test_text_is_stripped_as_djangos_forms_do(self):
        for model, field, sent, expected in STRIPPED:
            for encoding in ENCODINGS:
                self.check_update(model, field, sent, encoding, expected)
        made = self.post("shop/country", {"code": " xy ", "name": "Y"})["data"]
        self.assertEqual(made["pk"], "xy")
        # What a JSONField holds is data. What is stored already stays as it is.
        self.update(self.specimen, json={" a ": [" b "]})
        self.assertEqual(self.stored("json"), "{' a ': [' b ']}")
        Specimen.objects.filter(pk=7001).update(text=" a\nb ", char="  ")
        for text, form in ((" a\nb ", False), (" a\nb ", True), (" a\r\nb ", True)):
            self.update(self.specimen, form, text=text, char="  ", words="x")
            self.assertEqual(self.stored("text"), repr(" a\nb "))
            self.assertEqual(self.stored("char"), repr("  "))
        self.update(self.specimen, text=" a\r\nb ")
        self.assertEqual(self.stored("text"), repr("a\r\nb"))

    def test_a_message_says_what_to_enter(self):
        for field, sent, message in MESSAGES:
            with self.subTest(field, sent=str(sent)[:20]):
                [text] = self.errors(self.path, {field: sent})[field]
                self.assertTrue(text.startswith(message), text)
        # What the project says of its own field goes before what Django says.
        field = Specimen._meta.get_field("integer")
        own = dict(field.error_messages, invalid="%(value)s is none.")
        with mock.patch.object(field, "error_messages", own):
            for sent, shown in (("x", "x"), (True, "True")):
                errors = self.errors(self.path, {"integer": sent})
                self.assertEqual(errors, {"integer": [f"{shown} is none."]})
        refuse = mock.Mock(side_effect=ValidationError("Not today."))
        with mock.patch.object(field, "to_python", refuse):
            errors = self.errors(self.path, {"integer": 1})
            self.assertEqual(errors, {"integer": ["Not today."]})

    def test_a_value_that_could_not_be_read_back_is_refused(self):
        jar = self.make_jar()
        is_sqlite = connection.vendor == "sqlite"
        for sent, is_kept in BIG_DECIMALS:
            for form in (False, True):
                with self.subTest(sent, form=form):
                    if is_sqlite and not is_kept:
                        errors = self.errors(
                            self.path_of(jar), {"worth": sent}, form=form
                        )
                        [message] = errors.pop("worth")
                        self.assertIn("15 digits", message)
                        self.assertEqual(errors, {})
                        self.errors("shop/jar", {"worth": sent}, form=form)
                    else:
                        shown = self.update(jar, form, worth=sent)["worth"]
                        self.assertEqual(Decimal(shown), Decimal(sent))
                        self.assertEqual(shown, self.shown(jar)["worth"])
        # So is one that a hook sets.
        if is_sqlite:
            worth = Decimal(BIG_DECIMALS[0][0])
            prepare = {"prepare_record": lambda *args: setattr(args[2], "worth", worth)}
            self.serve(Jar, **prepare)
            self.assertEqual(self.refused({"count": 7}, jar), ["worth"])
        # An integer that JavaScript would round wants a field for big ones.
        for sent in (2**53, str(-(2**53)), 2**62):
            with self.subTest(sent):
                self.assertEqual(self.refused({"integer": sent}), ["integer"])
                self.update(self.specimen, big=sent)
        if not connection.features.has_native_duration_field:
            errors = self.errors(self.path, {"duration": "106751992 0:00:00"})
            self.assertIn("days", errors["duration"][0])

    def test_relations_that_have_to_have_a_value_are_required_on_create(self):
        whole = {"fans": [7001], "tags": ["a"]}
        for encoding in ENCODINGS:
            for name, missing in itertools.product(whole, (None, "", [])):
                sent = {key: value for key, value in whole.items() if key != name}
                is_form = "form" in encoding
                if missing == "" or missing == [] and not is_form:
                    sent[name] = missing
                with self.subTest(name, missing=missing, **encoding):
                    errors = self.errors("shop/strict", sent, **encoding)
                    self.assertEqual([*errors], [name])
                    self.assertEqual(errors[name], [IS_REQUIRED])
            made = self.post("shop/strict", whole, **encoding)["data"]
            self.assertEqual(made["fans"], [7001])
        self.assertEqual({*self.errors("shop/strict")}, {"fans", "tags"})
        # On update a relation keeps its value, and may not be cleared.
        strict = Strict.objects.get(pk=made["pk"])
        self.assertEqual(self.update(strict), made)
        for name in whole:
            self.assertEqual(self.refused({name: []}, strict), [name])
        # A record without a value from before may be sent back as it is.
        strict = Strict.objects.create()
        whole = self.shown(strict)
        self.assertEqual(self.update(strict, **whole), whole)
        # What is not the client's to write is not required.
        self.serve(Strict, readonly_fields=["tags"], exclude=["fans"])
        self.post("shop/strict")

    def test_several_values_for_one_are_refused(self):
        for field, values in (("char", ["a", "b"]), ("json", ["1", "2"])):
            body = urlencode({field: values}, doseq=True)
            errors = self.errors(self.path, body, **QUERY)
            self.assertEqual(errors, {field: ["This key takes one value."]})
        self.assertEqual(self.refused({"char": ["a"]}), ["char"])
        self.assertEqual(self.refused({"char[]": ["a"]}, form=True), ["char"])

    def test_the_order_of_new_tags_is_that_in_which_they_are_sent(self):
        def names(data):
            return " ".join(tag["name"] for tag in data["tags"])

        made = self.post("shop/specimen", {"tags": ["c", "a", {"name": "b"}]})["data"]
        self.assertEqual(names(made), "c a b")
        record = Specimen(pk=made["pk"])
        self.assertEqual(
            names(self.update(record, tags=["z", "b", "y", "c"])), "c b z y"
        )

    # What was read is sent back

    def check_sent_back(self, record):
        """Check that what `get` gives of a record, sent back whole, changes nothing."""
        shown = self.shown(record)
        for sent, form in ((shown, False), (fill_form(type(record), shown), True)):
            # The whole record, and each key by itself.
            for data in [sent, *({key: value} for key, value in sent.items())]:
                with self.subTest(record=record, form=form, sent=data):
                    reply = self.post(self.path_of(record), data, form=form)
                    # Not as one value: the differences of a long one take minutes.
                    changed = [k for k in shown if reply["data"].get(k) != shown[k]]
                    self.assertEqual(changed, [])
                    self.assertEqual({*reply}, {"success", "data"})
                    self.assertEqual(self.noticed, [])

    def notice_writes(self):
        """Keep in `noticed` what is written from now on."""
        self.noticed = []

        def notice(signal, **arguments):
            self.noticed.append(arguments)

        for signal in (ajax.ajax_updated, m2m_changed, models.signals.post_save):
            self.receive(signal, notice)

    def test_each_kind_of_field_can_be_sent_back(self):
        full = self.make_specimen()
        self.update(full, True, file=self.upload())
        empty = Specimen.objects.create(char="", text="", binary=b"", json="")
        text = " two\nlines\n"
        odd = Specimen.objects.create(text=text, char=" ", json={"2": 1, "1": 1.0})
        self.crate.payers.set([self.keeper])
        jar = self.make_jar(tint=" a", script=text, raw=b"", title=" ")
        self.notice_writes()
        for record in (full, empty, odd, jar, self.crate, self.article):
            self.check_sent_back(record)

    def test_a_file_without_a_url_can_be_sent_back(self):
        self.update(self.specimen, True, file=self.upload())
        with mock.patch.object(InMemoryStorage, "url", side_effect=NotImplementedError):
            self.assertIsNone(self.update(self.specimen, file=None)["file"])
        self.assertTrue(self.shown(self.specimen)["file"].startswith("/media/"))

    def test_an_expression_for_a_decimal_is_saved(self):
        def clean(jar):
            jar.worth = models.F("worth") + 1

        jar = self.make_jar()
        with mock.patch.object(Jar, "clean", clean):
            self.assertEqual(self.update(jar, count=9)["worth"], "6.00")
        self.assertEqual(self.post("shop/coin")["data"]["worth"], "2.00")

    def test_a_local_time_that_is_ambiguous_can_be_sent_back(self):
        moment = parse_datetime("2024-10-27T01:30Z")
        Specimen.objects.filter(pk=7001).update(moment=moment)
        with timezone.override("Europe/Berlin"):
            kept = self.update(self.specimen, True, moment="2024-10-27T02:30")
            self.assertEqual(kept["moment"], "2024-10-27T01:30:00Z")
            errors = self.refused({"moment": "2024-10-27T02:31"}, form=True)
            self.assertEqual(errors, ["moment"])

    def test_null_clears_a_key_of_which_the_database_asks_nothing(self):
        jar = self.make_jar(lost=Shelf.objects.create(code="a"))
        self.assertIsNone(self.update(jar, lost=None)["lost"])
        jar.refresh_from_db()
        self.assertIsNone(jar.lost)

    def test_hidden_and_deleted_records_can_be_sent_back(self):
        shelf, other = [Shelf.objects.create(code=code) for code in "ab"]
        keys = {"shelf": shelf, "by_code": shelf, "twin": shelf, "lost_id": 987}
        jar = self.make_jar(**keys)
        jar.shelves.set([shelf, other])
        self.notice_writes()
        for is_deleted, options in (
            (False, {}),
            (False, {"can_get": no}),
            (False, {"get_queryset": lambda self, request: Shelf.objects.none()}),
            (False, {"authenticate": no}),
            (True, {}),
        ):
            with self.subTest(options=options, is_deleted=is_deleted):
                self.noticed.clear()
                Shelf._base_manager.update(is_deleted=is_deleted)
                self.serve(Shelf, **options)
                self.check_sent_back(jar)
                # Others of them cannot be added.
                if options or is_deleted:
                    new = Shelf._base_manager.create(code="c", is_deleted=True)
                    for sent in (
                        {"shelf": new.pk},
                        {"by_code": new.pk},
                        {"shelves": [shelf.pk, new.pk]},
                    ):
                        self.assertEqual(self.refused(sent, jar), [*sent])
                    new.delete()
                self.doCleanups()
                self.notice_writes()
        # A deleted member that is not sent is removed.
        shown = self.update(jar, shelves=[other.pk])
        self.assertEqual(shown["shelves"], [other.pk])
        self.assertEqual(Jar.shelves.through.objects.count(), 1)
        # A key is cleared if it was shown.
        shown = self.update(jar, shelf=None, by_code=None)
        self.assertEqual((shown["shelf"], shown["by_code"]), (None, None))

    def test_what_is_there_already_does_not_count_against_the_limits(self):
        users = [User(username=f"user{number}") for number in range(1001)]
        self.specimen.keepers.set(User.objects.bulk_create(users))
        names = [f"tag{number}" for number in range(150)]
        self.specimen.tags.add(*names, " ", " blank", "x, y", 'q"r')
        # Only SQLite holds a longer name than the field allows.
        times = 40 if connection.vendor == "sqlite" else 25
        Tag.objects.create(name="long" * times, slug="long")
        self.specimen.tags.add(Tag.objects.get(slug="long"))
        self.notice_writes()
        shown = self.shown(self.specimen)
        self.assertEqual(self.update(self.specimen, **shown), shown)
        self.assertEqual(self.noticed, [])
        tags = [tag["name"] for tag in shown["tags"]]
        path_ = "shop/specimen/7001/tags"
        self.assertEqual(
            self.post(f"{path_}/set", {"tags": tags})["data"], shown["tags"]
        )
        for new, status in ((100, 200), (101, 400)):
            with transaction.atomic():
                added = [f"new{number}" for number in range(new)]
                self.post(self.path, {"tags": tags + added}, status)
                self.post(f"{path_}/set", {"tags": tags + added}, status)
                transaction.set_rollback(True)
        data = self.post(f"{path_}/remove", {"tags": [" "]})["data"]
        self.assertEqual(len(data), len(tags) - 1)
        self.specimen.keepers.set([self.user])
        errors = self.errors(self.path, {"keepers": [*range(10_000, 11_001)]})
        self.assertEqual(errors, {"keepers": ["Send at most 1000 values."]})

    def test_a_date_time_of_a_form_that_is_none_is_an_error_of_its_key(self):
        self.update(self.specimen, moment="2024-05-06T07:08:09Z")
        errors = self.errors(self.path, {"moment": "2024-13-45T00:00"}, form=True)
        self.assertEqual(errors, {"moment": ["Enter a valid date/time."]})


# --- Permissions ----------------------------------------------------------------------

#: Who calls. All but the first two are active users; the owner is the article's author.
ROLES = ["visitor", "inactive", "reader", "owner", "other", "staff", "superuser"]


def answers(visitors, users, **roles):
    """Return what each role is answered: a status, or how a related record is shown.

    `visitors` is for those who are not active users, `users` for those who are. The
    name of a role is for that one only.
    """
    by_role = dict.fromkeys(ROLES, users)
    by_role["visitor"] = by_role["inactive"] = visitors
    return by_role | roles


EVERYBODY = answers(visitors=200, users=200)
USERS = answers(visitors=403, users=200)
OWNER = answers(visitors=403, users=403, owner=200)
SUPERUSER = answers(visitors=403, users=403, superuser=200)
NOBODY = answers(visitors=403, users=403)
INVALID = answers(visitors=403, users=400)
NOT_FOUND = answers(visitors=404, users=404)
ONLY_OWNER_FINDS = answers(visitors=403, users=404, owner=200)


def no_author(self, request, record, created):
    pass


def set_author(self, request, record, created):
    if created and request.user.is_authenticated:
        record.author = request.user


def is_author(self, user, record, modified=None):
    return user == record.author


def articles_of_user(self, request):
    return Article.objects.filter(author=request.user.pk)


class GetForAll(ajax.BaseAuthentication):
    """What AJAX_AUTHENTICATION may name: everybody may get, and nothing else."""

    def is_authenticated(self, request, application, method):
        return (application, method) == ("shop", "get")


class EndpointKind(typing.NamedTuple):
    """An endpoint of articles, and what it answers to whom."""

    attributes: dict
    #: By operations, separated by spaces. The others are answered as `otherwise` says.
    answers: dict
    otherwise: dict = USERS
    #: How `get` of an offer shows its article: "whole", or as its "pk".
    expansion: dict = answers(visitors=403, users="whole")
    #: Texts of the article that no reply shows.
    hides: tuple = ()
    encoder: ajax.DefaultEncoder | None = None
    settings: dict = {}
    #: By Django permission, the role that holds it, besides the superuser.
    permissions: dict = {}


#: What an endpoint of articles has unless its kind says otherwise: the defaults, but
#: everybody may list.
USUAL_ATTRIBUTES = {
    name: getattr(ajax.ModelEndpoint, name)
    for name in (
        "authenticate",
        "can_create",
        "can_delete",
        "can_get",
        "can_update",
        "get_queryset",
        "operations",
        "require_permissions",
    )
} | {
    "can_list": yes,
    "exclude": ["secret"],
    "prepare_record": set_author,
    "readonly_fields": ["author"],
}

#: Who may do what.
ENDPOINT_KINDS = {
    "with the defaults": EndpointKind(
        {"can_list": ajax.ModelEndpoint.can_list},
        {"list": NOBODY},
    ),
    "that allows lists": EndpointKind({}, {}),
    "whose can_create refuses": EndpointKind(
        {"can_create": no},
        {"create": NOBODY},
    ),
    "whose can_get refuses": EndpointKind(
        {"can_get": no, "can_update": yes, "can_delete": yes},
        {"get publish add remove set clear similar": NOBODY},
        expansion=answers(visitors=403, users="pk"),
        hides=("First",),
    ),
    "whose can_list refuses": EndpointKind(
        {"can_list": no},
        {"list": NOBODY},
    ),
    "whose can_update refuses": EndpointKind(
        {"can_update": no},
        {"update add remove set clear": NOBODY},
    ),
    "whose can_delete refuses": EndpointKind(
        {"can_delete": no},
        {"delete": NOBODY},
    ),
    "whose authenticate refuses": EndpointKind(
        {"authenticate": no},
        {},
        otherwise=NOBODY,
        expansion=answers(visitors=403, users="pk"),
    ),
    "that only the author changes": EndpointKind(
        {"can_update": is_author, "can_delete": is_author},
        {"update delete add remove set clear": OWNER},
    ),
    "whose queryset is what the author wrote": EndpointKind(
        {"get_queryset": articles_of_user},
        {"get update delete publish add remove set clear similar": ONLY_OWNER_FINDS},
        expansion=answers(visitors=403, users="pk", owner="whole"),
    ),
    "that everybody may call": EndpointKind(
        {"authenticate": yes},
        {"get list publish count similar": EVERYBODY},
    ),
    "that everybody may call, with the default can_list": EndpointKind(
        {
            "authenticate": yes,
            "can_list": ajax.ModelEndpoint.can_list,
            "prepare_record": no_author,
        },
        {
            "get publish count similar": EVERYBODY,
            "list": NOBODY,
            # No author is set, and the field is required.
            "create": INVALID,
        },
    ),
    "with an authentication of the project's": EndpointKind(
        {},
        {"get": EVERYBODY},
        otherwise=NOBODY,
        expansion=answers(visitors="whole", users="whole"),
        settings={"AJAX_AUTHENTICATION": "test_ajax.GetForAll"},
    ),
    "that requires permissions": EndpointKind(
        {"require_permissions": True},
        {"create update delete add remove set clear": SUPERUSER},
    ),
    "that requires permissions which some hold": EndpointKind(
        {"require_permissions": True},
        {
            "create": SUPERUSER | {"reader": 200},
            "update add remove set clear": SUPERUSER | {"other": 200},
            "delete": SUPERUSER | {"staff": 200},
        },
        permissions={
            "add_article": "reader",
            "change_article": "other",
            "delete_article": "staff",
        },
    ),
    "that requires permissions, whose can_delete refuses": EndpointKind(
        {"require_permissions": True, "can_delete": no},
        {"create update add remove set clear": SUPERUSER, "delete": NOBODY},
        permissions={"delete_article": "staff"},
    ),
    "with two operations on a record": EndpointKind(
        {"operations": ["get", "publish"]},
        {"get publish": USERS},
        otherwise=NOT_FOUND,
    ),
    "with two operations without a record": EndpointKind(
        {"operations": ["list", "count"]},
        {"list count": USERS},
        otherwise=NOT_FOUND,
        expansion=answers(visitors=403, users="pk"),
    ),
    "with only the commands for tags": EndpointKind(
        {"operations": ["tags"]},
        {"add remove set clear similar": USERS},
        otherwise=NOT_FOUND,
        expansion=answers(visitors=403, users="pk"),
    ),
    "without operations": EndpointKind(
        {"operations": []},
        {},
        otherwise=NOT_FOUND,
        expansion=answers(visitors=403, users="pk"),
    ),
    "whose can_get refuses, with the default can_update and can_delete": EndpointKind(
        {"can_get": no},
        {"get update delete publish add remove set clear similar": NOBODY},
        expansion=answers(visitors=403, users="pk"),
        hides=("First",),
    ),
    "with readonly_fields": EndpointKind(
        {"readonly_fields": ["title", "tags"]},
        {"create": INVALID, "add remove set clear": NOT_FOUND},
    ),
    "with excluded fields": EndpointKind(
        {"exclude": ["title", "secret"]},
        {"create update": INVALID},
        hides=("First",),
    ),
    "with an encoder that shows the title": EndpointKind(
        {},
        {"create": INVALID, "add remove set clear similar": NOT_FOUND},
        hides=("9.50", "Local"),
        encoder=ajax.IncludeEncoder(["title"]),
    ),
}

#: What functions and forms answer to whom.
FUNCTIONS_AND_FORMS = {
    "shop/hello": EVERYBODY,
    # Django's login_required asks for a login, not for an active user.
    "shop/whoami": answers(visitors=403, users=200, inactive=200),
    "shop/contactform": answers(visitors=400, users=400),
    "shop/nothing": NOT_FOUND,
}

ONLY_STAFF_FINDS = answers(visitors=404, users=404, staff=200, superuser=200)
#: What the pages answer to whom.
PAGES = {
    "client.js": EVERYBODY,
    "": ONLY_STAFF_FINDS,
    "explorer.js": ONLY_STAFF_FINDS,
    "explorer.css": ONLY_STAFF_FINDS,
    "explorer.svg": ONLY_STAFF_FINDS,
    "openapi.json": ONLY_STAFF_FINDS,
}

#: The hooks that each operation calls, besides `authenticate` and `get_queryset`. An
#: unsaved article has a "*" behind its title, one with the tag "x" has "#x".
CALLED_HOOKS = {
    "create": {
        "prepare_record(request, New*, True)",
        "get_field_queryset(request, category)",
        "can_create(ann, New*)",
        "save_record(request, New*, True)",
        "can_get(ann, New)",
    },
    "update": {
        "prepare_record(request, New, False)",
        "can_update(ann, First, New)",
        "save_record(request, New, False)",
        "can_get(ann, New#x)",
    },
    "delete": {"can_delete(ann, First)", "delete_record(request, First)"},
    "add": {"can_get(ann, First)", "can_update(ann, First, First)"},
    "similar": {"can_get(ann, First)"},
    "list": {"can_list(ann)", "can_get(ann, First)"},
    "get": {"can_get(ann, First)"},
    "publish": {"can_get(ann, First)"},
    "count": set(),
}


def keeps_title(record, modified):
    return record.title == modified.title


#: Ways to write can_update, all of which keep the title from being changed.
SIGNATURES = [
    lambda self, user, record, modified: keeps_title(record, modified),
    lambda self, user, record, changed=None: keeps_title(record, changed),
    lambda self, user, record, **kwargs: keeps_title(record, kwargs["modified"]),
    lambda self, user, record, *, modified: keeps_title(record, modified),
    lambda self, user, record, *, modified=None, **kw: keeps_title(record, modified),
    lambda self, *arguments: keeps_title(*arguments[1:]),
    lambda self, user, *rest, **kwargs: keeps_title(*rest, *kwargs.values()),
    lambda *args, **kwargs: keeps_title(*args[2:], **kwargs),
    staticmethod(lambda user, record, modified: keeps_title(record, modified)),
]


class Headline(Article):
    class Meta:
        proxy = True


@override_settings(
    AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.AllowAllUsersModelBackend"]
)
class Permissions(AjaxTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        Article.objects.update(secret="top secret")
        cls.users = {
            "inactive": User.objects.create_user("inactive", is_active=False),
            "reader": User.objects.create_user("reader"),
            "owner": cls.user,
            "other": cls.other,
            "staff": User.objects.create_user("staff", is_staff=True),
            "superuser": User.objects.create_superuser("superuser"),
        }
        User.objects.update(email="who@example.com")
        cls.acme = Supplier.objects.create(name="Acme")
        cls.private = Supplier.objects.create(name="Private", is_private=True)
        cls.mine = Note.objects.create(owner=cls.user, text="mine")
        cls.hers = Note.objects.create(owner=cls.other, text="hers")
        offer = Offer.objects.create(article=cls.article, supplier=cls.acme)
        cls.offer_path = f"shop/offer/{offer.pk}/get"
        new = {"title": "New", "category": cls.local.pk, "price": 1}
        #: The path and the data of each operation on articles.
        cls.calls = {
            "create": ("shop/article", new),
            "list": ("shop/article/list", {}),
            "count": ("shop/article/count", {}),
            "get": (f"{cls.path}/get", {}),
            "update": (f"{cls.path}/update", {"title": "New"}),
            "delete": (f"{cls.path}/delete", {}),
            "publish": (f"{cls.path}/publish", {}),
            "add": (f"{cls.path}/tags/add", {"tags": ["a"]}),
            "remove": (f"{cls.path}/tags/remove", {"tags": ["a"]}),
            "set": (f"{cls.path}/tags/set", {"tags": ["a"]}),
            "clear": (f"{cls.path}/tags/clear", {}),
            "similar": (f"{cls.path}/tags/similar", {}),
        }

    def setUp(self):
        super().setUp()
        self.clients = {"visitor": Client(raise_request_exception=False)}
        for role, user in self.users.items():
            self.clients[role] = Client(raise_request_exception=False)
            self.clients[role].force_login(user)

    # Who may do what

    def call(self, role, path, data):
        """Make a call as one of `ROLES`, and undo it; return the status and reply."""
        self.client = self.clients[role]
        with transaction.atomic():
            status, reply = self.send(path, json.dumps(data).encode())
            transaction.set_rollback(True)
        return status, reply

    def get_expansion(self, role):
        """Get an offer; return how its article is shown, or a status, and the reply."""
        status, reply = self.call(role, self.offer_path, {})
        if status != 200:
            return status, reply
        if isinstance(reply["data"]["article"], dict):
            return "whole", reply
        self.assertEqual(reply["data"]["article"], self.article.pk)
        return "pk", reply

    def assert_answered(self, kind, role, operation, expected, answer, reply):
        self.assertEqual(
            answer,
            expected,
            f"An endpoint {kind}: {operation} by {role} is to be answered {expected}, "
            f"and was answered {answer}: {reply}",
        )

    def assert_hidden(self, texts, kind, role, operation, reply):
        written = json.dumps(reply)
        for text in texts:
            message = f"An endpoint {kind}: {operation} by {role} shows {text!r}."
            self.assertNotIn(text, written, message)

    @contextlib.contextmanager
    def serve_kind(self, endpoint):
        """Serve articles by an `EndpointKind`."""
        self.serve(Article, **USUAL_ATTRIBUTES | endpoint.attributes)
        # NoteEndpoint needs a user who is logged in.
        self.serve(Offer, exclude=["note"])
        if endpoint.encoder:
            self.register_encoder(Article, endpoint.encoder)
        with self.settings(**endpoint.settings), transaction.atomic():
            for codename, role in endpoint.permissions.items():
                permission = Permission.objects.get(codename=codename)
                self.users[role].user_permissions.add(permission)
            yield
            transaction.set_rollback(True)
        self.doCleanups()

    def test_every_operation_is_in_the_tables(self):
        known = {*ajax._operations(ArticleEndpoint), *ajax._COMMANDS}
        self.assertEqual({*self.calls}, known)
        for kind, endpoint in ENDPOINT_KINDS.items():
            with self.subTest(kind):
                named = " ".join(endpoint.answers).split()
                self.assertEqual(len(named), len({*named}), "One is there twice.")
                self.assertLessEqual({*named}, known)

    def test_each_role_gets_the_answers_of_the_table_and_sees_nothing_hidden(self):
        for kind, endpoint in ENDPOINT_KINDS.items():
            expected = dict.fromkeys(self.calls, endpoint.otherwise)
            for operations, by_role in endpoint.answers.items():
                expected |= dict.fromkeys(operations.split(), by_role)
            secrets = ["top secret", "who@example.com", "pbkdf2", "md5$"]
            secrets += endpoint.hides
            with self.serve_kind(endpoint):
                for role, operation in itertools.product(ROLES, self.calls):
                    with self.subTest(kind, role=role, operation=operation):
                        call = (kind, role, operation)
                        status, reply = self.call(role, *self.calls[operation])
                        status_of_role = expected[operation][role]
                        self.assert_answered(*call, status_of_role, status, reply)
                        self.assert_hidden(secrets, *call, reply)
                for role in ROLES:
                    call = (kind, role, "get of an offer with its article")
                    with self.subTest(kind, role=role, operation="expansion"):
                        shown, reply = self.get_expansion(role)
                        shown_to_role = endpoint.expansion[role]
                        self.assert_answered(*call, shown_to_role, shown, reply)
                        self.assert_hidden(secrets, *call, reply)

    def test_a_relative_of_a_registered_model_stays_a_pk(self):
        endpoints = ajax.endpoint
        copies = {name: {**vars(endpoints)[name]} for name in ("_registry", "_paths")}
        self.addCleanup(ajax._forget_plans)
        with mock.patch.multiple(endpoints, **copies):
            endpoints.unregister(Article)
            endpoints.register(Headline)
            for role, expected in answers(visitors=403, users="pk").items():
                with self.subTest(role):
                    shown, reply = self.get_expansion(role)
                    self.assertEqual(shown, expected, reply)

    def test_functions_and_forms(self):
        for path_, by_role in FUNCTIONS_AND_FORMS.items():
            for role, expected in by_role.items():
                with self.subTest(path_, role=role):
                    status, reply = self.call(role, path_, {})
                    self.assertEqual(status, expected, reply)

    def test_pages(self):
        for name, by_role in PAGES.items():
            for role, expected in by_role.items():
                with self.subTest(name, role=role):
                    response = self.clients[role].get(f"/ajax/{name}")
                    self.assertEqual(response.status_code, expected)

    def test_a_user_model_requires_permissions_unless_told_otherwise(self):
        self.serve(User, fields=["first_name"])
        path_ = f"shop/user/{self.other.pk}"
        self.post(f"{path_}/get")
        for operation in ("update", "delete"):
            reply = self.post(f"{path_}/{operation}", status=403)
            message = "You may not do this."
            self.assertEqual(reply["data"]["message"], message)
        self.serve(User, require_permissions=False)
        self.post(f"{path_}/update", {"first_name": "Bob"})

    # The hooks

    def test_each_hook_gets_its_arguments_and_has_the_record_at_hand(self):
        calls_of_hooks, attributes = set(), set()

        def describe(argument):
            if isinstance(argument, models.Field):
                return argument.name
            if isinstance(argument, http.HttpRequest):
                return "request"
            if not isinstance(argument, Article):
                return str(argument)
            if argument.pk is None:
                return f"{argument.title}*"
            if argument.tags.filter(name="x").exists():
                return f"{argument.title}#x"
            return argument.title

        def record_calls(name):
            original = getattr(ArticleEndpoint, name)

            def hook(self, *arguments):
                described = ", ".join(describe(argument) for argument in arguments)
                calls_of_hooks.add(f"{name}({described})")
                if name == "can_update":
                    user = self.request.user
                    attributes.add((user, self.model, self.pk, self.record))
                return original(self, *arguments)

            return hook

        names = [
            "authenticate",
            "can_create",
            "can_delete",
            "can_get",
            "can_list",
            "can_update",
            "delete_record",
            "get_field_queryset",
            "get_queryset",
            "prepare_record",
            "save_record",
        ]
        self.serve(Article, **{name: record_calls(name) for name in names})
        data = {"update": {"title": "New", "tags": ["x"]}, "add": {"tags": []}}
        for operation, expected in CALLED_HOOKS.items():
            with self.subTest(operation), transaction.atomic():
                calls_of_hooks.clear()
                path_, usual_data = self.calls[operation]
                self.post(path_, data.get(operation, usual_data))
                method = operation
                if operation in ajax._COMMANDS:
                    method = "tags"
                authenticate = f"authenticate(request, shop, {method})"
                always = {authenticate, "get_queryset(request)"}
                self.assertEqual(calls_of_hooks, expected | always)
                transaction.set_rollback(True)
        pk = str(self.article.pk)
        self.assertEqual(attributes, {(self.user, Article, pk, self.article)})
        # `self.record` is None while the record is fetched.
        get_records = mock.Mock(side_effect=lambda record: Article.objects.all())
        self.serve(Article, get_queryset=lambda self, request: get_records(self.record))
        self.post(f"{self.path}/update", {"title": "New"})
        self.assertEqual(get_records.call_args_list[0], mock.call(None))

    def test_old_signatures_of_hooks_work(self):
        for number, can_update in enumerate(SIGNATURES):
            with self.subTest(inspect.signature(can_update)):
                self.serve(Article, can_update=can_update)
                self.post(f"{self.path}/update", {"title": "x"}, status=403)
                self.post(f"{self.path}/update", {"body": f"x{number}"})
                self.post(*self.calls["add"])
        self.serve(Article, can_create=lambda *args, **named: args[2].author == args[1])
        self.post(*self.calls["create"])
        self.serve(
            Article,
            can_create=lambda self, user: user.username == "ann",
            can_update=lambda self, user, record: record.title == "First",
        )
        steps = [("create", 200), ("update", 200), ("update", 403), ("clear", 403)]
        for name, status in steps:
            self.post(*self.calls[name], status=status)
        self.client.force_login(self.other)
        self.post(*self.calls["create"], status=403)

    def test_operations_never_run_on_records_that_the_user_may_not_get(self):
        ran = []
        for model in (Note, Supplier):
            self.serve(model, look=lambda self, request: ran.append(self.record))
        names = ("get", "update", "delete", "look")
        for pk, name in itertools.product((self.hers.pk, 0, "x"), names):
            with self.subTest(pk=pk, name=name):
                reply = self.post(f"shop/note/{pk}/{name}", {"text": "x"}, status=404)
                message = f'Note with id of "{pk}" not found.'
                self.assertEqual(reply["data"]["message"], message)
        self.post(f"shop/supplier/{self.private.pk}/look", status=403)
        self.assertEqual(ran, [])
        self.assertEqual(Note.objects.get(pk=self.hers.pk).text, "hers")

    def test_records_in_computed_fields_are_filtered_for_the_user(self):
        mine, hers = {"pk": self.mine.pk, "text": "mine"}, self.hers.pk
        self.serve(Note, fields=["text"])
        self.serve(
            Supplier,
            fields=["private", "note", "notes"],
            private=lambda self, record: Supplier.objects.get(is_private=True),
            note=property(lambda self: Note.objects.get(text="hers")),
            notes=lambda self, record: Note.objects.order_by("text"),
        )
        expected = {"pk": self.acme.pk, "private": self.private.pk}
        expected |= {"note": hers, "notes": [hers, mine]}
        self.assertEqual(self.shown(self.acme), expected)
        # The record of a generic foreign key is filtered, too.
        self.serve(TaggedItem, fields=["content_object"])
        for note, shown in [(self.mine, mine), (self.hers, hers)]:
            item = TaggedItem(content_object=note, tag=Tag.objects.first())
            item.save()
            self.assertEqual(self.shown(item)["content_object"], shown)
        # A client may choose its model. Without an endpoint or encoder it is a pk.
        group = Group.objects.create(name="secret")
        item = TaggedItem.objects.create(content_object=group, tag=Tag.objects.first())
        self.assertEqual(self.shown(item)["content_object"], group.pk)
        self.register_encoder(Group, ajax.IncludeEncoder(include=["name"]))
        shown = {"pk": group.pk, "name": "secret"}
        self.assertEqual(self.shown(item)["content_object"], shown)

    def test_operations_are_methods_of_endpoint_classes_that_take_a_request(self):
        class Mixin:
            def mixed(self, request):
                return "no"

        class Lending(Mixin, ArticleEndpoint):
            def lend(self, request, weeks=2, *args, **kwargs):
                return [self.record and self.record.title, weeks]

            def wants_more(self, request, more):
                return "no"

            _hidden = Mixin.mixed
            computed = property(wants_more)
            of_class = classmethod(Mixin.mixed)

        self.serve(Article)  # This restores the endpoint after the test.
        ajax.endpoint.unregister(Article)
        ajax.endpoint.register(Article, Lending)
        self.assertEqual(self.post(f"{self.path}/lend")["data"], ["First", 2])
        self.assertEqual(self.post("shop/article/lend")["data"], [None, 2])
        for name in ("mixed", "_hidden", "computed", "wants_more", "of_class"):
            with self.subTest(name):
                self.post(f"{self.path}/{name}", status=404)
                self.post(f"shop/article/{name}", status=404)

    def test_an_operation_may_have_any_other_name(self):
        names = ["authorize", "run", "offers", "find_operation", "for_model", "plan"]
        names += ["operation", "encode", "using", "permit", "login", "authenticated"]
        operations = {name: lambda self, request: "paid" for name in names}
        self.serve(Article, **operations)
        self.client.logout()
        for name in ["get", "update", "delete", *names]:
            with self.subTest(name):
                reply = self.post(f"{self.path}/{name}", status=403)
                self.assertIn("login_url", reply)
        self.client.force_login(self.user)
        for name in names:
            with self.subTest(name):
                self.assertEqual(self.post(f"{self.path}/{name}")["data"], "paid")

    def test_modified_is_the_locked_instance_and_record_a_copy(self):
        instances = []

        class Tracker:
            """Keeps the value that the instance was read with, as trackers do."""

            def __init__(self, record):
                self.record, self.title = record, record.title

            def has_changed(self):
                return self.record.title != self.title

        def from_db(cls, *args, **kwargs):
            record = models.Model.from_db.__func__(cls, *args, **kwargs)
            record.tracker = Tracker(record)
            return record

        def can_update(self, user, record, modified):
            instances.append((record, modified))
            return record.title == "First" and modified.title == "New"

        def save_record(self, request, record, created):
            instances.append(record.tracker.has_changed())
            record.save()

        with mock.patch.object(Article, "from_db", classmethod(from_db)):
            self.serve(Article, can_update=can_update, save_record=save_record)
            self.post(f"{self.path}/update", {"title": "New"})
            self.doCleanups()
        (record, modified), has_changed = instances
        self.assertIs(modified.tracker.record, modified)
        self.assertIsNot(record, modified)
        self.assertTrue(has_changed)

    def test_models_of_django_contrib_auth_want_permissions_by_default(self):
        self.serve(Group)
        self.serve(User, fields=["first_name"])
        group = Group.objects.create(name="staff")
        for path, data in [
            ("shop/group", {"name": "x"}),
            (f"shop/group/{group.pk}/update", {"permissions": [1]}),
            (f"shop/group/{group.pk}/delete", {}),
            (f"shop/user/{self.other.pk}/update", {"first_name": "x"}),
        ]:
            with self.subTest(path):
                self.post(path, data, status=403)
        self.assertEqual(self.shown(group)["name"], "staff")
        self.serve(Group, require_permissions=False)
        self.post(f"shop/group/{group.pk}/update", {"name": "x"})

    def test_a_user_model_that_logs_in_by_e_mail_shows_only_its_pk(self):
        with mock.patch.object(User, "USERNAME_FIELD", "email"):
            self.serve(User)
            self.assertEqual(self.shown(self.other), {"pk": self.other.pk})
            author = self.shown(self.article)["author"]
            self.assertEqual(author, {"pk": self.user.pk})

    def test_all_public_names_of_the_classes_are_documented(self):
        shared = {"authenticate", "csrf_exempt", "request", "user"}
        for endpoint_class, names in [
            (ajax.BaseAuthentication, {"is_authenticated"}),
            (ajax.BaseEndpoint, {"csrf_exempt"}),
            (ajax.FormEndpoint, shared | {"create", "get_form_kwargs"}),
            (
                ajax.ModelEndpoint,
                shared
                | {"create", "delete", "get", "list", "tags", "update"}
                | {"can_create", "can_delete", "can_get", "can_list", "can_update"}
                | {"get_field_queryset", "get_queryset", "record"}
                | {"delete_record", "prepare_record", "save_record"}
                | {"exclude", "expand", "fields", "immutable_fields", "list_filter"}
                | {"list_per_page", "max_per_page", "operations", "ordering"}
                | {"readonly_fields", "require_permissions", "search_fields"}
                | {"annotations", "sortable_by", "version_field"},
            ),
        ]:
            with self.subTest(endpoint_class.__name__):
                public = {n for n in dir(endpoint_class) if not n.startswith("_")}
                self.assertEqual(public, names)

    def test_a_visitor_who_may_not_create_is_told_so_before_prepare_record(self):
        def prepare_record(self, request, record, created):
            record.author = request.user  # A ValueError for a visitor.

        self.serve(Article, authenticate=yes, prepare_record=prepare_record)
        self.client.logout()
        sent = {"title": "A", "category": self.news.pk}
        self.post("shop/article", sent, status=403)

    def test_an_error_that_a_hook_returns_stops_the_write(self):
        def refuse(self, request, record, *created):
            record.title = "changed"
            return ajax.AJAXError(402, "Pay first.")

        for hook, paths in [
            ("prepare_record", ["shop/category", "shop/category/{}/update"]),
            ("save_record", ["shop/category", "shop/category/{}/update"]),
            ("delete_record", ["shop/category/{}/delete"]),
        ]:
            self.serve(Category, **{hook: refuse})
            category = Category.objects.create(title="old")
            titles = [*Category.objects.values_list("title", flat=True)]
            for path_ in paths:
                with self.subTest(hook, path=path_):
                    self.post(path_.format(category.pk), {"title": "new"}, status=402)
                    stored = Category.objects.values_list("title", flat=True)
                    self.assertEqual([*stored], titles)
            self.doCleanups()

    def test_an_error_or_a_response_that_a_hook_returns_is_no_yes(self):
        calls = [
            ("authenticate", "get"),
            ("can_get", "get"),
            ("can_update", "update"),
            ("can_delete", "delete"),
        ]
        answers = [
            ajax.AJAXError(403, "No."),
            exceptions.PermissionDenied(),
            http.HttpResponseRedirect("/login/"),
        ]
        for (name, operation), answer in itertools.product(calls, answers):
            kind = type(answer).__name__
            with self.subTest(name, answer=kind), self.settings(DEBUG=True):
                self.serve(Article, **{name: lambda self, *names, yes=answer: yes})
                reply = self.post(f"{self.path}/{operation}", status=500)
                message = f"{name} returned a {kind} instead of True or False"
                self.assertIn(message, reply["data"]["message"])
                self.doCleanups()
        self.assertTrue(Article.objects.filter(pk=self.article.pk).exists())


# --- Refusals -------------------------------------------------------------------------

#: Slips in the name of an option, here or elsewhere, and what is to be written.
SLIPS_OF_OPTIONS = {
    "field": "fields",
    "fileds": "fields",
    "Fields": "fields",
    "exclud": "exclude",
    "excludes": "exclude",
    "excluded": "exclude",
    "readonly_field": "readonly_fields",
    "readonlyfields": "readonly_fields",
    "readonlyFields": "readonly_fields",
    "read_only_fields": "readonly_fields",
    "read_only_field": "readonly_fields",
    "readonly_feilds": "readonly_fields",
    "READONLY_FIELDS": "readonly_fields",
    "_readonly_fields": "readonly_fields",
    "immutable_field": "immutable_fields",
    "immutableFields": "immutable_fields",
    "inmutable_fields": "immutable_fields",
    "expands": "expand",
    "expend": "expand",
    "orderings": "ordering",
    "oredring": "ordering",
    "sortableBy": "sortable_by",
    "sort_able_by": "sortable_by",
    "sortabel_by": "sortable_by",
    "search_field": "search_fields",
    "searchFields": "search_fields",
    "serach_fields": "search_fields",
    "list_filters": "list_filter",
    "listFilter": "list_filter",
    "list_fliter": "list_filter",
    "operation": "operations",
    "opperations": "operations",
    "list_pre_page": "list_per_page",
    "listPerPage": "list_per_page",
    "max_perpage": "max_per_page",
    "maxPerPage": "max_per_page",
    "annotation": "annotations",
    "anotations": "annotations",
    "Annotations": "annotations",
    "_annotations": "annotations",
    "versionField": "version_field",
    "version_fields": "version_field",
    "versionfield": "version_field",
    "VERSION_FIELD": "version_field",
    "version_filed": "version_field",
    "require_permission": "require_permissions",
    "requires_permission": "require_permissions",
    "required_permissions": "require_permissions",
    "requirePermissions": "require_permissions",
    "csrfexempt": "csrf_exempt",
    "csrf_excempt": "csrf_exempt",
    "permission_class": "authenticate",
    "authentication_class": "authenticate",
    "throttle_class": "authenticate",
    "serializer_classes": "fields",
    "filter_backend": "list_filter",
    "filterset_field": "list_filter",
}

#: Slips in the name of a hook, and what is meant.
SLIPS_OF_HOOKS = {
    "authenticates": "authenticate",
    "autenticate": "authenticate",
    "can_creat": "can_create",
    "can_creates": "can_create",
    "canCreate": "can_create",
    "cancreate": "can_create",
    "can_gett": "can_get",
    "can_gte": "can_get",
    "canGet": "can_get",
    "_can_get": "can_get",
    "can_lst": "can_list",
    "can_lists": "can_list",
    "canList": "can_list",
    "can_updat": "can_update",
    "can_updates": "can_update",
    "can_udpate": "can_update",
    "canUpdate": "can_update",
    "can_up_date": "can_update",
    "can_delet": "can_delete",
    "can_deletes": "can_delete",
    "canDelete": "can_delete",
    "get_query_set": "get_queryset",
    "getqueryset": "get_queryset",
    "getQueryset": "get_queryset",
    "getQuerySet": "get_queryset",
    "get_querysets": "get_queryset",
    "get_querryset": "get_queryset",
    "get_field_query_set": "get_field_queryset",
    "get_fields_queryset": "get_field_queryset",
    "getFieldQueryset": "get_field_queryset",
    "prepare_records": "prepare_record",
    "prepareRecord": "prepare_record",
    "perpare_record": "prepare_record",
    "save_records": "save_record",
    "saveRecord": "save_record",
    "sav_record": "save_record",
    "delete_records": "delete_record",
    "deleteRecord": "delete_record",
    "delete_recrod": "delete_record",
    "get_form_kwarg": "get_form_kwargs",
    "to_dicts": "to_dict",
}

#: Names of other packages, and what is to be written instead.
NAMES_OF_OTHERS = {
    # The old package
    "authentication": "authenticate",
    "_save": "save_record",
    "_extract_data": "prepare_record",
    "_extract_tags": "prepare_record",
    "_set_tags": "tags",
    "_get_record": "get_queryset",
    "_encode_record": "encoder",
    "_encode_data": "encoder",
    "_encode_value": "encoder",
    "_extract_value": "prepare_record",
    "_value_map": "prepare_record",
    "allowed_methods": "operations",
    # ModelAdmin
    "has_add_permission": "can_create",
    "has_change_permission": "can_update",
    "has_delete_permission": "can_delete",
    "has_view_permission": "can_get",
    "has_module_permission": "authenticate",
    "has_publish_permission": "can_update",
    "get_readonly_fields": "readonly_fields",
    "get_readonly_field": "readonly_fields",
    "getReadonlyFields": "readonly_fields",
    "get_fields": "fields",
    "get_exclude": "exclude",
    "get_form": "fields",
    "get_list_display": "fields",
    "list_display": "fields",
    "list_editable": "readonly_fields",
    "formfield_for_foreignkey": "get_field_queryset",
    "formfield_for_manytomany": "get_field_queryset",
    "delete_model": "delete_record",
    "delete_queryset": "delete_record",
    "save_model": "save_record",
    "save_formset": "save_record",
    "save_related": "save_record",
    "get_search_results": "get_queryset",
    "get_annotations": "annotations",
    "get_ordering": "ordering",
    "get_sortable_by": "sortable_by",
    "date_hierarchy": "list_filter",
    "get_list_filter": "list_filter",
    "inlines": "fields",
    "raw_id_fields": "get_field_queryset",
    # Django's views
    "queryset": "get_queryset",
    "get_query": "get_queryset",
    "get_object": "get_queryset",
    "permission_required": "require_permissions",
    "login_required": "authenticate",
    "login_url": "authenticate",
    "test_func": "authenticate",
    "raise_exception": "authenticate",
    "handle_no_permission": "authenticate",
    "dispatch": "authenticate",
    "http_method_names": "operations",
    "paginate_by": "list_per_page",
    "form_valid": "save_record",
    "form_class": "fields",
    "get_initial": "prepare_record",
    "__call__": "operation",
    # Django REST framework, and what is made for it
    "serializer_class": "fields",
    "get_serializer": "encoder",
    "get_serializer_class": "encoder",
    "permission_classes": "can_create",
    "authentication_classes": "authenticate",
    "throttle_classes": "429",
    "throttle_scope": "authenticate",
    "get_throttles": "429",
    "filterset_fields": "list_filter",
    "filter_backends": "list_filter",
    "pagination_class": "list_per_page",
    "ordering_fields": "sortable_by",
    "lookup_field": "pk",
    "perform_create": "prepare_record",
    "perform_update": "prepare_record",
    "perform_destroy": "delete_record",
    "get_permissions": "can_create",
    "getPermissions": "authenticate",
    "check_permissions": "authenticate",
    "has_permission": "authenticate",
    "has_object_permission": "can_get",
    "check_object_permissions": "can_get",
    "destroy": "delete_record",
    "retrieve": "encoder",
    "partial_update": "prepare_record",
    "extra_kwargs": "readonly_fields",
    "parser_classes": "JSON",
    "renderer_classes": "HttpResponse",
    "versioning_class": "operation",
    "basename": "path",
    "select_related": "expand",
    "prefetch_related": "expand",
    "default_limit": "list_per_page",
    "max_limit": "max_per_page",
    "Meta": "fields",
    # django-ninja and others
    "Config": "fields",
    "model_config": "fields",
    "model_exclude": "exclude",
    "can_view": "can_get",
    "can_read": "can_get",
    "can_edit": "can_update",
    "can_change": "can_update",
    "can_add": "can_create",
    "authentification": "authenticate",
    "is_authenticated": "authenticate",
    "to_dict": "encoder",
    "html_escape": "encoder",
    "get_form_kwargs": "prepare_record",
}

#: Names that are refused unless they are used, and what is to be written instead.
NAMES_IN_HOPE = {
    "auth": "authenticate",
    "authenticated": "authenticate",
    "permission": "authenticate",
    "require_login": "authenticate",
    "throttle": "429",
    "can_insert": "can_create",
    "can_see": "can_get",
    "can_browse": "can_list",
    "can_write": "can_update",
    "can_destroy": "can_delete",
    "hidden_fields": "exclude",
    "readonly": "readonly_fields",
    "read_only": "readonly_fields",
    "include": "fields",
    "sortable_fields": "sortable_by",
    "methods": "operations",
    "version": "version_field",
    "version_column": "version_field",
    "lock_field": "version_field",
    "annotate": "annotations",
    "annotated": "annotations",
    "depth": "expand",
    "order_by": "ordering",
    "orderby": "ordering",
    "sortable": "sortable_by",
    "per_page": "list_per_page",
    "extra_fields": "fields",
    "write_only_fields": "encoder",
    "validate": "prepare_record",
}

#: Options with a value of the wrong type, and a part of the message.
WRONG_VALUES = [
    ("fields", "name", "Write ['name']"),
    ("fields", "__ALL__", "Write ['__ALL__']"),
    ("exclude", "name permissions", "Write ['name', 'permissions']"),
    ("exclude", "__all__", "instead of a list"),
    ("readonly_fields", ("name"), "Write ['name']"),
    ("readonly_fields", "name, permissions", "Write ['name', 'permissions']"),
    ("immutable_fields", "name", "Write ['name']"),
    ("expand", "permissions", "Write ['permissions']"),
    ("ordering", "-name", "Write ['-name']"),
    ("sortable_by", "name", "Write ['name']"),
    ("search_fields", "name", "Write ['name']"),
    ("list_filter", "name", "Write ['name']"),
    ("operations", "get", "Write ['get']"),
    ("sortable_by", "__all__", "of a list of names. Name the fields."),
    ("list_filter", {"name": ["gte"]}, "a dict instead of a list of names"),
    ("fields", {"name": "Name"}, "a dict instead of a list of names"),
    ("ordering", {"name": 1}, "a dict instead of a list of names"),
    ("expand", {"permissions": 1}, "a dict instead of a list of names"),
    ("exclude", None, "None instead of a list"),
    ("readonly_fields", True, "True instead of a list"),
    ("readonly_fields", b"name", "a bytes instead of a list"),
    ("fields", 5, "5 instead of a list"),
    ("fields", property(lambda self: ["name"]), "a property instead of a list"),
    ("readonly_fields", lambda self: ["name"], "a function instead of a list"),
    ("exclude", (name for name in ["name"]), "a generator instead of a list"),
    ("expand", None, "None instead of a list"),
    ("list_per_page", "20", "'20' instead of a number"),
    ("list_per_page", 0, "0 instead of a number from 1"),
    ("list_per_page", True, "True instead of a number from 1"),
    ("list_per_page", 20.0, "a float instead of a number from 1"),
    ("list_per_page", None, "None instead of a number from 1"),
    ("max_per_page", 0, "0 instead of a number from 1"),
    ("max_per_page", -1, "-1 instead of a number from 1"),
    ("max_per_page", True, "True instead of a number from 1"),
    ("max_per_page", "100", "'100' instead of a number from 1"),
    ("annotations", ["name"], "a list instead of a dict of expressions by name"),
    ("annotations", "name", "the text 'name' instead of a dict"),
    ("annotations", None, "None instead of a dict"),
    ("annotations", models.F("name"), "a F instead of a dict"),
    ("annotations", lambda self, request: {}, "a function instead of a dict"),
    ("annotations", property(lambda self: {}), "a property instead of a dict"),
    ("version_field", ["name"], "a list instead of the name of a field"),
    ("version_field", ("name",), "a tuple instead of the name of a field"),
    ("version_field", True, "True instead of the name of a field"),
    ("version_field", models.F("name"), "a F instead of the name of a field"),
    ("require_permissions", ["shop.add_article"], "a list instead of True or False"),
    ("csrf_exempt", "yes", "'yes' instead of True or False"),
]


async def is_asked_async(self, *arguments):
    return False


async def later(self, request):
    return {"later": self.method}


async def is_yielded_async(self, *arguments):
    yield False


def is_yielded(self, *arguments):
    yield False


#: Hooks that cannot say no, or cannot be called, and a part of the message.
WRONG_HOOKS = [
    ("can_list", True, "True instead of a method, def can_list(self, user)"),
    ("can_create", None, "None instead of a method"),
    ("delete", None, "None instead of a method, def delete(self, request)"),
    ("get_queryset", ["name"], "a list instead of a method"),
    ("can_get", property(lambda self: True), "a property instead of a method"),
    ("can_update", ajax.BaseAuthentication, "a type instead of a method"),
    ("can_get", is_asked_async, "async"),
    ("can_list", staticmethod(is_asked_async), "async"),
    ("can_create", functools.partialmethod(is_asked_async), "async"),
    ("can_update", is_yielded_async, "async"),
    ("can_delete", is_yielded, "a generator"),
    ("authenticate", is_asked_async, "async"),
    ("get_queryset", is_asked_async, "async"),
    ("get_field_queryset", is_asked_async, "async"),
    ("prepare_record", is_asked_async, "async"),
    ("save_record", is_asked_async, "async"),
    ("delete_record", is_asked_async, "async"),
    ("can_update", lambda self, record: 1, "can_update(self, user, record, modified)"),
    ("can_update", lambda self, obj, new: 1, "(self, user, record, modified)"),
    ("can_update", lambda self, record, user: 1, "(self, user, record, modified)"),
    ("can_update", lambda self, user, modified, record: 1, "(user, record, modified)"),
    ("can_update", lambda self, user, modified: 1, "(user, record, modified)"),
    ("can_update", lambda self, user, record, modified, form: 1, "(self, user, rec"),
    ("can_delete", lambda self, instance: 1, "can_delete(self, user, record)"),
    ("can_delete", lambda self, group: 1, "can_delete(self, user, record)"),
    ("can_create", lambda self, request: 1, "can_create(self, user, record)"),
    ("can_create", lambda: 1, "can_create(self, user, record)"),
    ("can_get", lambda self, user: 1, "can_get(self, user, record)"),
    ("can_get", lambda self, record: 1, "can_get(self, user, record)"),
    ("can_get", lambda self, user, request: 1, "can_get(self, user, record)"),
    ("can_get", staticmethod(lambda record, user: 1), "can_get(self, user, record)"),
    ("can_list", lambda self: 1, "can_list(self, user)"),
    ("can_list", lambda self, request: 1, "can_list(self, user)"),
    ("get_queryset", lambda self: 1, "get_queryset(self, request)"),
    ("get_queryset", lambda self, user: 1, "get_queryset(self, request)"),
    ("get_field_queryset", lambda self, field, request: 1, "(self, request, field)"),
    ("authenticate", lambda self, request: 1, "(self, request, application, method)"),
    ("prepare_record", lambda self, record: 1, "(self, request, record, created)"),
    ("save_record", lambda self, request, obj, form, change: 1, "(request, record"),
    ("save_record", lambda self, record, request, created: 1, "(request, record"),
    ("delete_record", lambda self, obj: 1, "delete_record(self, request, record)"),
    ("update", lambda self, request, pk: 1, "update(self, request)"),
    ("tags", lambda self, record: 1, "tags(self, request)"),
]

#: Names that a project can give to an operation, a property, or a method that takes the
#: record, as they come.
ORDINARY_NAMES = """
    accept approve archive as_dict author_field authorize bulk_create can_approve
    can_bet can_comment can_export can_get_all can_list_all can_publish can_set can_vote
    cancel change_owner clone close confirm count created delete_all delete_old download
    encode excluded exclude_drafts expanded export field fields_for_page filter
    get_absolute_url get_objects get_price get_quote get_record get_related get_status
    get_total handle has_image html include_drafts invite is_mine is_owner is_public
    like limit list_all list_files listing login mark_read max_price merge move_up
    operation order ordering_total owner page pay per_page prepare preview publish
    queryset_count ranking read record_total refund render reorder report
    required_fields restore save save_all save_draft scan search searchable_fields send
    set_tags ship state stats subscribe title_display to_json toggle total undo updated
    upload validate_coupon view_count vote
    """.split()


class Invoice(models.Model):
    owner = models.ForeignKey(User, models.CASCADE)
    title = models.CharField(max_length=100)
    iban = models.CharField(max_length=34)
    search = models.CharField(max_length=100, blank=True)
    password = models.CharField(max_length=100, blank=True)
    topics = TaggableManager(blank=True)


class Shipment(models.Model):
    """Its pk is none that the rows of a plain TaggableManager can hold."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    labels = TaggableManager(blank=True)


class Coupon(models.Model):
    code = models.SlugField(primary_key=True)
    labels = TaggableManager(blank=True)


class Voucher(models.Model):
    coupon = models.OneToOneField(Coupon, models.CASCADE, primary_key=True)
    labels = TaggableManager(blank=True)


class Refusals(AjaxTestCase):
    """What registering refuses, of `auth.Group` as far as the model does not matter."""

    def refuse(self, message, served=Group, bases=(ajax.ModelEndpoint,), **attributes):
        """Assert that registering refuses a class for what `message` says."""
        name = f"{served.__name__}Endpoint"
        endpoint_class = type(
            name, bases, {"__module__": "shop.endpoints"} | attributes
        )
        try:
            ajax.endpoint.register(served, endpoint_class)
        except ImproperlyConfigured as error:
            self.assertIn(message, str(error))
            return str(error)
        ajax.endpoint.unregister(served)
        self.fail(f"Registered with {attributes}, but it should say: {message}")

    def refuse_name(self, name, value, word):
        """Assert that a name is refused, in a mixin too, and what is told instead."""
        message = self.refuse(f"shop.endpoints.GroupEndpoint.{name} ", **{name: value})
        self.assertRegex(message, rf"GroupEndpoint\.{name} .*\b{word}\b")
        mixin = type("Mixin", (), {name: value, "__module__": "shop.mixins"})
        bases = (mixin, ajax.ModelEndpoint)
        self.assertIn(word, self.refuse(f"shop.mixins.Mixin.{name} ", bases=bases))

    # Names

    def test_a_slip_in_the_name_of_an_option(self):
        for name, meant in SLIPS_OF_OPTIONS.items():
            with self.subTest(name):
                self.refuse_name(name, ["name"], meant)

    def test_a_slip_in_the_name_of_a_hook_whatever_shape_it_has(self):
        shapes = {
            "hook": lambda self, user, record: False,
            "operation": lambda self, request: Group.objects.none(),
            "method": lambda self, record: False,
            "property": property(lambda self: False),
        }
        for name, meant in SLIPS_OF_HOOKS.items():
            for shape, value in shapes.items():
                with self.subTest(name, shape=shape):
                    self.refuse_name(name, value, meant)

    def test_every_letter_that_is_left_out_added_or_swapped(self):
        for asked in ajax._ASKED_BY_BASE[ajax.ModelEndpoint]:
            slips = {f"{asked}s", asked.replace("_", ""), asked.upper()}
            for position in range(len(asked)):
                before, after = asked[:position], asked[position:]
                slips.add(before + after[1:])
                slips.add(f"{before}{after[:1]}{after}")
                slips.add(before + after[1::-1] + after[2:])
            for slip in slips - {asked}:
                with self.subTest(asked, slip=slip):
                    self.refuse(f"Did you mean {asked}?", **{slip: ["name"]})

    def test_names_of_other_packages(self):
        shapes = [
            lambda self, request: 1,
            lambda self, request, obj=None: 1,
            lambda self, user, record: 1,
            ["name"],
            type("Nested", (), {}),
        ]
        for name, word in NAMES_OF_OTHERS.items():
            for value in shapes:
                with self.subTest(name, value=value):
                    self.refuse_name(name, value, word)

    def test_names_in_hope_unless_the_endpoint_uses_them(self):
        for name, word in NAMES_IN_HOPE.items():
            for value in (["name"], True, lambda self, user, record: 1):
                with self.subTest(name, value=value):
                    self.refuse_name(name, value, word)
        for name in ("auth", "can_see", "can_write", "include", "depth"):
            for value in (
                lambda self, request: 1,
                lambda self, record: 1,
                property(lambda self: 1),
            ):
                self.serve(Group, **{name: value})
                self.doCleanups()
        self.serve(Group, depth=3, fields=["name", "depth"])
        self.doCleanups()
        # What `fields` lists has a use, whatever its name.
        names = ["can_edit", "has_edit_permission", "can_updated", "saved_record"]
        self.serve(Group, fields=names, **dict.fromkeys(names, lambda self, group: 1))

    def test_ordinary_names_are_the_projects_own(self):
        shapes = {
            "operation": lambda: lambda self, request: 1,
            "method": lambda: lambda self, record: 1,
            "method of the class": lambda: classmethod(lambda cls, record: 1),
            "property": lambda: property(lambda self: 1),
            "cached property": lambda: functools.cached_property(lambda self: 1),
        }
        for shape, make_value in shapes.items():
            with self.subTest(shape):
                self.serve(Group, **{name: make_value() for name in ORDINARY_NAMES})
                self.doCleanups()
        self.serve(Group, can_publish=yes, author_fields=[], initials="x", meta={})

    def test_names_that_this_file_uses_itself(self):
        for name in [
            "request", "user", "model", "pk", "record", "method", "command",
            "application", "_authorize", "_run", "_find_operation", "_plan",
        ]:  # fmt: skip
            with self.subTest(name):
                self.refuse(f".{name} has ", **{name: lambda self, request: "x"})
        self.refuse(".model has ", model=property(lambda self: Group))
        self.refuse("._plan has ", _plan=None)
        self.serve(Group, record=property(lambda self: 1), model=Group)

    def test_a_mixin_on_the_wrong_side(self):
        def get_queryset(self, request):
            return Group.objects.none()

        attributes = {"__module__": "shop.mixins", "get_queryset": get_queryset}
        mixin = type("OwnerMixin", (), attributes)
        message = "Write class GroupEndpoint(OwnerMixin, ModelEndpoint)."
        for attributes in ({}, {"get_queryset": lambda self, request: Group.objects}):
            text = self.refuse(message, bases=(ajax.ModelEndpoint, mixin), **attributes)
            self.assertIn("shop.mixins.OwnerMixin.get_queryset ", text)
        self.refuse(
            "GroupEndpoint(OwnerMixin, OpenEndpoint)", bases=(OpenEndpoint, mixin)
        )
        options = type("Options", (), {"readonly_fields": ["name"]})
        self.refuse("Options.readonly_fields", bases=(OpenEndpoint, options))
        # What the base class has none of is reached on either side.
        tools = type("Tools", (), {"slugify": yes, "_helper": yes})
        ajax.endpoint.register(Group, type("Right", (OpenEndpoint, tools), {}))
        self.addCleanup(ajax.endpoint.unregister, Group)

    # Values and hooks

    def test_a_value_of_the_wrong_type(self):
        for name, value, message in WRONG_VALUES:
            with self.subTest(name, value=value):
                self.refuse(f".{name} is ", **{name: value})
                self.refuse(message, **{name: value})
                base = type("Base", (ajax.ModelEndpoint,), {name: value})
                self.refuse(message, bases=(base,))
        for attributes in [
            {"fields": None, "ordering": None, "operations": None, "max_per_page": 5},
            {"fields": "__all__", "expand": 0, "require_permissions": None},
            {"fields": ("name",), "exclude": {"name"}, "ordering": [models.F("pk")]},
            {"readonly_fields": {"name": 1}.keys(), "expand": False},
        ]:
            self.serve(Group, **attributes)
            self.doCleanups()

    def test_a_hook_that_cannot_say_no_or_cannot_be_called(self):
        for name, value, message in WRONG_HOOKS:
            with self.subTest(name, message=message):
                self.refuse(f"shop.endpoints.GroupEndpoint.{name} ", **{name: value})
                self.refuse(message, **{name: value})

    def test_a_hook_that_can_be_called(self):
        for attributes in [
            *({"can_update": can_update} for can_update in SIGNATURES),
            {"can_create": lambda self, user: 1, "can_delete": lambda self, user: 1},
            {"can_update": lambda self, user, old, new: 1},
            {"can_update": lambda self, user, article, instance: 1},
            {"can_update": lambda self, user, *, modified: 1},
            {"can_update": lambda self: 1},
            {"can_get": classmethod(lambda cls, user, obj: 1)},
            {"can_get": async_to_sync(is_asked_async)},
            {"can_get": functools.partialmethod(yes, 1), "can_list": mock.Mock()},
            {"get_queryset": lambda self, request=None, **options: 1},
            {"authenticate": lambda self, request, *names: 1},
            {"create": later, "list": lambda self, request, more=1: iter([])},
        ]:
            with self.subTest(attributes):
                self.serve(Article, **attributes)
                self.doCleanups()
        self.serve(User, can_get=lambda self, user, other: 1)
        self.serve(Article, can_update=async_to_sync(is_asked_async))
        self.post(f"{self.path}/update", {"title": "x"}, status=403)
        self.serve(Category, create=later)
        status, reply = self.send("shop/category")
        self.assertEqual((status, reply["data"]), (200, {"later": "create"}))

    def test_an_answer_that_is_always_true_is_an_error(self):
        async def answer():
            return False

        supplier = Supplier.objects.create()
        offer = Offer.objects.create(article=self.article, supplier=supplier)
        calls = [
            ("authenticate", Article, f"{self.path}/get", {}),
            ("authenticate", Article, f"shop/offer/{offer.pk}/get", {}),
            ("can_get", Article, f"{self.path}/get", {}),
            ("can_get", Article, f"{self.path}/publish", {}),
            ("can_get", Category, f"{self.path}/update", {"category": self.news.pk}),
            ("can_list", Article, "shop/article/list", {}),
            ("can_update", Article, f"{self.path}/update", {"title": "x"}),
            ("can_delete", Article, f"{self.path}/delete", {}),
            ("can_create", Article, "shop/article", {"title": "x"}),
        ]
        always_true = {
            "coroutine": lambda: answer(),
            "generator": lambda: (number for number in []),
            "function": lambda: answer,
            "ManyRelatedManager": lambda: self.user.groups,
        }
        for (name, served, path, data), kind in itertools.product(calls, always_true):
            made = []

            def hook(self, *arguments, kind=kind, made=made):
                made.append(always_true[kind]())
                return made[-1]

            with self.subTest(name, path=path, kind=kind), self.settings(DEBUG=True):
                self.serve(served, **{name: hook})
                reply = self.post(path, data, status=500)
                message = f"{served.__name__}Endpoint.{name} returned a {kind}"
                self.assertIn(message, reply["data"]["message"])
                self.doCleanups()
            if kind == "coroutine":
                for coroutine in made:
                    coroutine.close()
        # Other answers count as Python counts them.
        self.serve(Article, can_list=lambda self, user: Group.objects.all())
        self.post("shop/article/list", status=403)
        Group.objects.create(name="x")
        self.post("shop/article/list")

    def test_the_class_in_ajax_authentication(self):
        for attributes, message in [
            ({"is_authenticated": is_asked_async}, "is_authenticated is async"),
            ({"is_authenticate": no}, "is_authenticate has no effect"),
            ({"isAuthenticated": no}, "isAuthenticated has no effect"),
            ({"authenticate": no}, "authenticate has no effect here"),
            (
                {"is_authenticated": lambda self, request: 1},
                "is called with (request, ",
            ),
            ({"is_authenticated": True}, "True instead of a method"),
        ]:
            with self.subTest(message), self.authenticate_by(attributes):
                reply = self.post(f"{self.path}/get", status=500)
                self.assertIn(message, reply["data"]["message"])
                (error,) = self.find_errors("Chosen.")
                self.assertIn(message, error.msg)
        generate = {"is_authenticated": lambda self, *names: is_yielded(self)}
        with self.authenticate_by(generate):
            reply = self.post(f"{self.path}/get", status=500)
            self.assertIn("returned a generator", reply["data"]["message"])
        with self.settings(AJAX_AUTHENTICATION="nowhere.Lost"):
            self.assertEqual(len(self.find_errors("nowhere")), 1)
        # Its own method may have any name once it overrides the one that is asked.
        own = {"is_authenticated": no, "authenticate": no}
        with self.authenticate_by(own):
            self.post(f"{self.path}/get", status=403)
            self.assertEqual(self.find_errors("Chosen"), [])

    @contextlib.contextmanager
    def authenticate_by(self, attributes):
        """Let a class with these attributes say who may call."""
        chosen = type("Chosen", (ajax.BaseAuthentication,), attributes)
        with mock.patch.object(sys.modules[__name__], "Chosen", chosen, create=True):
            with self.settings(AJAX_AUTHENTICATION="test_ajax.Chosen", DEBUG=True):
                yield

    def test_the_largest_page_in_ajax_max_per_page(self):
        for size, message in [
            (0, "The setting AJAX_MAX_PER_PAGE is 0 instead of a number from 1."),
            (-5, "is -5 instead of a number from 1."),
            (True, "is True instead of a number from 1."),
            (None, "is None instead of a number from 1."),
            ("50", "is the text '50' instead of a number from 1."),
            (50.0, "is a float instead of a number from 1."),
        ]:
            with self.subTest(size), self.settings(AJAX_MAX_PER_PAGE=size, DEBUG=True):
                for path in ("shop/article/list", f"{self.path}/tags/similar"):
                    reply = self.post(path, status=500)
                    self.assertIn(message, reply["data"]["message"])
                (error,) = self.find_errors("AJAX_MAX_PER_PAGE")
                self.assertEqual(error.id, "ajax.E002")
                self.assertIn(message, error.msg)
                self.assertTrue(error.hint)
                # A class that says its own size does not ask the setting.
                self.serve(Article, max_per_page=1)
                self.assertEqual(len(self.post("shop/article/list")["data"]), 1)
                self.doCleanups()
        with self.settings(AJAX_MAX_PER_PAGE=1):
            self.assertEqual(self.find_errors("AJAX_MAX_PER_PAGE"), [])

    def test_a_setting_of_the_old_package(self):
        self.assertEqual(self.find_errors("AJAX_PK_ATTR_NAME"), [])
        with self.settings(AJAX_PK_ATTR_NAME="id"):
            (error,) = self.find_errors("AJAX_PK_ATTR_NAME is never read")
            self.assertEqual(error.id, "ajax.E002")
            self.assertIn("always 'pk'", error.hint)

    def find_errors(self, text):
        """Return the errors of the system checks that hold a text."""
        return [error for error in checks.run_checks() if text in error.msg]

    # Endpoints of models

    def test_an_unknown_name_in_what_closes_fields(self):
        for attribute, name, message in [
            ("fields", "titel", "Did you mean title?"),
            ("fields", "__all__", "which shop.Invoice does not have"),
            ("fields", 3, "names 3, which"),
            ("exclude", "ibans", "Did you mean iban?"),
            ("exclude", "owner__email", "names 'owner__email', which"),
            ("exclude", "owner_id", "Did you mean owner?"),
            ("exclude", "IBAN", "names 'IBAN', which"),
            ("readonly_fields", "ownr", "Did you mean owner?"),
            ("readonly_fields", "owner_id", "Did you mean owner?"),
            ("immutable_fields", "ownr", "Did you mean owner?"),
        ]:
            with self.subTest(attribute, name=name):
                self.refuse(message, Invoice, **{attribute: ["title", name]})
        for attributes in [
            {"fields": ["owner", "owner_id"], "readonly_fields": ["owner_id"]},
            {"fields": ["pk", "get_iban"], "get_iban": lambda self, record: "***"},
            {"exclude": ["id", "topics"], "readonly_fields": ("title", "pk")},
            {"fields": [], "exclude": (), "readonly_fields": set()},
        ]:
            self.serve(Invoice, **attributes)
            self.doCleanups()

    def test_one_class_may_name_fields_of_each_model_that_it_serves(self):
        class SharedEndpoint(OpenEndpoint):
            exclude = ["iban", "name"]

        class NarrowEndpoint(SharedEndpoint):
            readonly_fields = ["owner"]

        registry = ajax.endpoint
        message = "names 'iban', which auth.Group does not have"
        with self.assertRaisesMessage(ImproperlyConfigured, message):
            registry.register(Group, SharedEndpoint)
        registry.register([Group, [Invoice]], SharedEndpoint)
        for model in (Group, Invoice):
            self.assertTrue(registry.is_registered(model))
            registry.unregister(model)
        # What a base class names is left to the checks.
        registry.register(Invoice, NarrowEndpoint)
        registry.unregister(Invoice)
        with self.assertRaisesMessage(ImproperlyConfigured, "'owner', which"):
            registry.register(Group, NarrowEndpoint)
        # A model may be added to those that the class serves.
        both = type("BothEndpoint", (OpenEndpoint,), {"exclude": ["iban"]})
        for model in (Invoice, Group):
            registry.register(model, both)
            self.addCleanup(registry.unregister, model)

    def test_an_operation_that_hopes_for_a_pk_or_a_record(self):
        for name in ("pk", "record"):
            for scan in (
                eval(f"lambda self, request, {name}=None: 1"),
                eval(f"lambda self, request, *, {name}=None, more=1: 1"),
                ajax.login_required(eval(f"lambda self, request, {name}=None: 1")),
            ):
                message = f"GroupEndpoint.scan is called without {name}. Write "
                text = self.refuse(message, scan=scan)
                self.assertIn("@ajax.validated def scan(self, request, record)", text)
            update = eval(f"lambda self, request, {name}=None: 1")
            message = (
                f"update is called without {name}. Write def update(self, request)"
            )
            self.refuse(message, update=update)
        # What requires more is a helper.
        helper = lambda self, request, record: 1  # noqa: E731
        mixin = type("Mixin", (), {"scan": scan})
        ajax.endpoint.register(Group, type("Mixed", (mixin, OpenEndpoint), {}))
        ajax.endpoint.unregister(Group)
        helpers = {"scan": helper, "_scan": update, "can_publish": yes}
        self.serve(Group, more=lambda self, request, size=1: 1, **helpers)

    def test_what_would_not_mask_a_field(self):
        masks = {
            "method": lambda self, record: "***",
            "method of the class": classmethod(lambda cls, record: "***"),
            "property": property(lambda self: "***"),
            "cached property": functools.cached_property(lambda self: "***"),
            "text": "***",
            "None": None,
        }
        for kind, mask in masks.items():
            for fields in (None, "__all__", ["title", "iban"]):
                with self.subTest(kind, fields=fields):
                    message = "GroupEndpoint.iban changes nothing: the field iban"
                    message = message.replace("Group", "Invoice")
                    self.refuse(message, Invoice, iban=mask, fields=fields)
            for options in ({"exclude": ["iban"]}, {"fields": ["title"]}):
                self.serve(Invoice, iban=mask, **options)
                self.doCleanups()
        # A field that is not shown needs no mask. An operation or a helper is none.
        self.serve(Invoice, password=masks["method"])
        self.doCleanups()
        self.serve(User, email=masks["method"])
        self.doCleanups()
        self.refuse("changes nothing", User, username=masks["method"])
        helper = lambda self, record, country: "***"  # noqa: E731
        self.serve(Invoice, iban=lambda self, request: "***", title=helper)

    def test_methods_in_fields_are_called_with_the_record(self):
        for left in (
            lambda self: 1,
            lambda self, request, obj: 1,
            classmethod(lambda cls: 1),
            staticmethod(lambda request, record: 1),
            functools.partialmethod(lambda self, record: 1, 1),
            is_asked_async,
        ):
            message = "Endpoint.left is shown, so write def left(self, record)."
            self.refuse(message, Invoice, left=left, fields=["title", "left"])
            self.serve(Invoice, left=left, fields=["title"])
            self.doCleanups()
        for left in (
            lambda self, record, more=1: 1,
            classmethod(lambda cls, record: 1),
            staticmethod(lambda record: 1),
            property(lambda self: 1),
            functools.cached_property(lambda self: 1),
        ):
            # `title` is a field, which is shown whatever the endpoint calls so.
            helper = lambda self, record, country: 1  # noqa: E731
            fields = ["title", "left"]
            self.serve(Invoice, left=left, title=helper, fields=fields)
            self.doCleanups()

    def test_methods_that_are_to_validate_a_field(self):
        for name in ("clean_iban", "validate_iban"):
            message = f"{name} has no effect. Write it into the model's clean()."
            self.refuse(message, Invoice, **{name: lambda self, value: value})
        for name in ("clean", "full_clean"):
            with self.subTest(name):
                self.refuse("clean()", Invoice, **{name: lambda self: None})
        for validate in (
            lambda self, attrs: attrs,
            lambda self, record: record,
            classmethod(lambda cls, value: value),
            property(lambda self: True),
        ):
            message = """Raise ValidationError({"field": "..."}) in prepare_record()"""
            self.refuse(message, Invoice, validate=validate)
        operation = lambda self, request: 1  # noqa: E731
        self.serve(Invoice, validate_iban=operation, clean_up=yes, clean=operation)
        self.doCleanups()
        self.serve(Invoice, validate=operation)

    def test_the_password_of_a_user_cannot_be_named(self):
        for fields in (["username", "password"], ("password",)):
            self.refuse("set_password()", User, fields=fields)
            base = type("Base", (OpenEndpoint,), {"fields": fields})
            self.refuse("set_password()", User, bases=(base,), readonly_fields=fields)
        self.serve(User, fields="__all__")
        self.assertNotIn("password", self.shown(self.user))
        # Another model's may be, and then it is shown and written.
        self.serve(Invoice, fields=["title", "iban", "owner", "password"])
        invoice = {"title": "x", "iban": "x", "owner": self.user.pk, "password": "y"}
        self.assertEqual(self.post("shop/invoice", invoice)["data"]["password"], "y")

    def test_what_is_no_value_of_a_record_cannot_be_shown(self):
        for name in ("delete", "save", "objects", "refresh_from_db"):
            with self.subTest(name):
                message = f"names '{name}', which is no value of a record"
                self.refuse(message, Invoice, fields=["title", name])

    def test_a_list_that_would_help_to_guess_a_password(self):
        message = "by which clients could find out the password"
        for option, name in [
            ("search_fields", "owner__password"),
            ("search_fields", "^owner__password"),
            ("sortable_by", "owner__password"),
            ("list_filter", "owner__password__startswith"),
            ("list_filter", "password"),
        ]:
            with self.subTest(option, name=name):
                self.refuse(message, Invoice, **{option: [name]})
        fields = ["title", "password"]
        self.serve(Invoice, fields=fields, list_filter=["password"])

    def test_a_form_that_would_store_the_password_of_a_user_as_it_is(self):
        class SignUpForm(forms.ModelForm):
            class Meta:
                model = User
                fields = ["username", "password"]

            def save(self, commit=True):
                user = super().save(commit=False)
                user.set_password(self.cleaned_data["password"])
                user.save()
                return user

        declared = {"password": forms.CharField(widget=forms.PasswordInput)}
        plain = type("PlainForm", (forms.ModelForm,), declared)
        for form in (
            forms.modelform_factory(User, fields="__all__"),
            forms.modelform_factory(User, exclude=["username"]),
            forms.modelform_factory(User, fields=["username", "password"]),
            forms.modelform_factory(User, form=plain, fields=["username", "password"]),
            forms.modelform_factory(Account, fields="__all__"),
        ):
            form.__module__ = __name__
            message = f"{form.__name__}.password would be stored as it is sent"
            with (
                self.subTest(form),
                self.assertRaisesMessage(ImproperlyConfigured, message),
            ):
                self.serve(form)
        for fields in ({"fields": ["username"]}, {"exclude": ["password", "groups"]}):
            form = forms.modelform_factory(User, form=plain, **fields)
            form.__module__ = __name__
            self.serve(form)  # It does nothing with the password.
            self.doCleanups()
        self.serve(SignUpForm)
        self.serve(type("LoginForm", (forms.Form,), {"password": forms.CharField()}))
        sent = {"username": "eve", "password": "tulip"}
        eve = self.post("shop/signupform", sent)["data"]
        self.assertEqual(eve, {"pk": eve["pk"], "username": "eve"})
        self.assertTrue(User.objects.get(username="eve").check_password("tulip"))
        # The form of Django's admin shows a password, but reads none.
        change_form = type("ChangeForm", (UserChangeForm,), {"__module__": __name__})
        get_form_kwargs = lambda self, request: {"instance": request.user}  # noqa: E731
        self.serve(change_form, get_form_kwargs=get_form_kwargs)
        stored = self.user.password
        joined = self.user.date_joined.isoformat()
        sent = {"username": "anna", "password": "tulip", "date_joined": joined}
        self.assertNotIn("password", self.post("shop/changeform", sent)["data"])
        self.user.refresh_from_db()
        self.assertEqual((self.user.username, self.user.password), ("anna", stored))
        hidden = {"password": forms.CharField(disabled=True)}
        hidden_form = type("HiddenForm", (forms.ModelForm,), hidden)
        fields = ["username", "password"]
        self.serve(forms.modelform_factory(User, form=hidden_form, fields=fields))
        # What is no user's is the form's own affair.
        self.serve(forms.modelform_factory(Invoice, fields="__all__"))

    def test_a_filter_that_is_another_parameter_of_list(self):
        for name in ("order_by", "search", "items_per_page", "current_page"):
            with self.subTest(name):
                message = f"names '{name}', which is another parameter of list."
                self.refuse(message, Invoice, list_filter=["title", name])
        self.refuse("names 'topics', but list", Invoice, list_filter=["topics"])
        self.serve(Invoice, list_filter=["search__exact", "topics__name"], can_list=yes)
        for search in ("a", "b"):
            Invoice.objects.create(owner=self.user, search=search).topics.add(search)
        for sent in ({"search__exact": "a"}, {"topics": "a"}):
            with self.subTest(sent):
                (invoice,) = self.post("shop/invoice/list", sent)["data"]
                self.assertEqual(invoice["search"], "a")

    def test_tags_whose_rows_cannot_hold_the_pk(self):
        for model in (Shipment, Coupon, Voucher):
            with self.subTest(model.__name__):
                message = "labels keeps the pk in a column of type IntegerField, which"
                text = self.refuse(f"{model.__name__}.{message}", model)
                self.assertIn("TaggableManager(through=", text)
                self.refuse("labels", model, fields=["labels"])
                self.serve(model, exclude=["labels"])
                self.doCleanups()
                self.serve(model, fields=[])
                self.doCleanups()
        for key, pk, can_hold in [
            (models.CharField(), models.UUIDField(), True),
            (models.TextField(), models.DateField(), True),
            (models.IntegerField(), models.BigAutoField(), True),
            (models.IntegerField(), models.SlugField(), False),
            (models.UUIDField(), models.UUIDField(), True),
            (models.UUIDField(), models.AutoField(), False),
        ]:
            self.assertIs(ajax._can_hold(key, pk), can_hold)

    def test_reverse_relations_and_the_old_exclude(self):
        for served, name in [
            (Group, "user_set"),
            (Track, "livetrack"),
        ]:
            with self.subTest(name):
                with self.assertRaisesMessage(ImproperlyConfigured, f" {name}, a rev"):
                    self.serve(served, fields=["pk", name])
        method = {"fields": ["user_set"], "user_set": lambda self, group: []}
        self.serve(Group, **method)
        self.doCleanups()
        with mock.patch.object(Group, "__exclude__", ["name"], create=True):
            self.refuse("Group.__exclude__ has no effect. Set exclude")

    # Forms and encoders

    def test_what_nothing_asks_of_a_form(self):
        form = form_named("BerthForm")
        refuse = functools.partial(self.refuse, served=form, bases=(ajax.FormEndpoint,))
        names = ["can_create", "can_update", "get_queryset", "prepare_record"]
        names += ["fields", "exclude", "readonly_fields", "require_permissions"]
        names += ["save_record", "operations", "form_valid", "get_initial"]
        names += ["perform_create", "to_dict", "can_edit"]
        for name in names:
            with self.subTest(name):
                message = f"BerthFormEndpoint.{name} has no effect"
                text = refuse(message, **{name: is_author})
                self.assertIn("Override authenticate() or get_form_kwargs()", text)
        for attributes, message in [
            ({"login_required": True}, "Override authenticate()"),
            ({"permission_classes": []}, "Override authenticate() or get_form_kwa"),
            ({"throttle_classes": []}, "Count them in authenticate(), and raise"),
            ({"authentification": []}, "Override authenticate()"),
            ({"form_kwargs": {}}, "has no effect. Override get_form_kwargs()."),
            ({"success_url": "/"}, "has no effect. Let the JavaScript of the page"),
            ({"get_form_kwarg": yes}, "Did you mean get_form_kwargs?"),
            ({"getFormKwargs": yes}, "Did you mean get_form_kwargs?"),
            ({"autenticate": yes}, "Did you mean authenticate?"),
            ({"authenticate": is_asked_async}, "async"),
            ({"get_form_kwargs": is_asked_async}, "async"),
            ({"get_form_kwargs": lambda self: {}}, "get_form_kwargs(self, request)"),
            ({"get_form_kwargs": {"prefix": "x"}}, "a dict instead of a method"),
            ({"csrf_exempt": 1}, "1 instead of True or False"),
            ({"pk": lambda self, request: 1}, "attribute of each instance"),
            ({"_run": yes}, "the base class uses"),
        ]:
            with self.subTest(message):
                refuse(message, **attributes)
        mixin = type("Mixin", (), {"authenticate": no})
        refuse("Mixin.authenticate is never reached", bases=(ajax.FormEndpoint, mixin))
        self.serve(form, get_form_kwargs=lambda self, request: {}, create=later)

    def test_what_nothing_asks_of_an_encoder(self):
        def to_dict(self, record, **options):
            return {name: getattr(record, name) for name in self.fields}

        def old_to_dict(self, record, expand=False, html_escape=False, fields=None):
            """Pass all on, as the encoders of the old package did."""

        class Own(ajax.ExcludeEncoder):
            exclude = ["parent"]

            def __init__(self):
                """Leave `exclude` as the class has it."""

        default, include = ajax.DefaultEncoder, ajax.IncludeEncoder
        exclude = ajax.ExcludeEncoder
        mixin = type("Mixin", (), {"to_dict": to_dict})
        for bases, attributes, message in [
            ([default], {"fields": ["title"]}, "fields has no effect here"),
            ([default], {"exclude": ["title"]}, "exclude has no effect here"),
            ([default], {"include": ["title"]}, "include has no effect here"),
            ([include], {"exclude": ["title"]}, "exclude has no effect here"),
            ([default], {"toDict": to_dict}, "Did you mean to_dict?"),
            ([default], {"to_dit": to_dict}, "Did you mean to_dict?"),
            ([default], {"htmlEscape": True}, "Did you mean html_escape?"),
            ([default], {"html_escape": "yes"}, "'yes' instead of True or False"),
            ([default], {"to_dict": is_asked_async}, "to_dict is async"),
            ([default], {"to_dict": lambda self: {}}, "to_dict(self, record)"),
            ([default], {"to_dict": {}}, "a dict instead of a method"),
            ([default], {"_escape": yes}, "Override to_dict(), or set html_escape"),
            ([default], {"__call__": yes}, "Override to_dict()"),
            ([default], {"_encode_value": yes}, "Override to_dict()"),
            ([default], {"to_representation": yes}, "Override to_dict()"),
            ([default], {"_select": yes}, "the base class uses"),
            ([default, mixin], {}, "Mixin.to_dict is never reached"),
            ([default], {"to_dict": old_to_dict}, "to_dict has a parameter expand"),
            (
                [default],
                {"to_dict": lambda self, record, *, fields=None: {}},
                "to_dict has a parameter fields, which nothing passes. Write "
                "to_dict(self, record, **options), and set expand and fields in the "
                "endpoint.",
            ),
        ]:
            encoder_class = type("Wrong", tuple(bases), attributes)
            for encode in (
                functools.partial(ajax.encoder.register, Category),
                functools.partial(ajax.encoder.encode, self.news),
            ):
                with self.subTest(message):
                    with self.assertRaisesMessage(ImproperlyConfigured, message):
                        encode(encoder_class)
        for encoder, message in [
            (include("title"), "include is the text 'title' instead of a list"),
            (exclude("title"), "exclude is the text 'title' instead of a list"),
            (exclude(exclude=None), "exclude is None instead of a list of names"),
            (exclude(True), "exclude is True instead of a list of names"),
        ]:
            with self.assertRaisesMessage(ImproperlyConfigured, message):
                ajax.encoder.register(Category, encoder)
        self.assertFalse(ajax.encoder.is_registered(Category))
        attributes = {"to_dict": to_dict, "fields": ["title"]}
        custom = type("Custom", (default,), attributes)
        self.assertEqual(ajax.encoder.encode(self.news, custom), {"title": "News"})
        shown = {"pk": self.news.pk, "title": "News"}
        self.assertEqual(ajax.encoder.encode(self.news, Own), shown)

    def test_a_decorator_without_its_model_or_with_parentheses(self):
        message = "Write @ajax.register(TheModel)."
        for served in ([ajax.ModelEndpoint], [ajax.FormEndpoint], [OpenEndpoint], []):
            with self.assertRaisesMessage(ImproperlyConfigured, message):
                ajax.register(*served)
        message = "Write @ajax.validated without parentheses."
        for options in ({}, {"detail": True}, {"methods": ["post"]}):
            with self.assertRaisesMessage(ImproperlyConfigured, message):
                ajax.validated(**options)

    def test_what_is_no_class_is_refused_by_name(self):
        for wrong in (OpenEndpoint("shop", Group, "get"), "OpenEndpoint", no):
            message = "auth.Group needs a class that extends ModelEndpoint"
            with self.assertRaisesMessage(ImproperlyConfigured, message):
                ajax.endpoint.register(Group, wrong)


# --- Writing --------------------------------------------------------------------------

from django.db.models.signals import m2m_changed
from django.utils.text import slugify


class Winery(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=50, unique=True)
    sells = models.BooleanField(default=True)


class Wine(models.Model):
    winery = models.ForeignKey(Winery, models.PROTECT, limit_choices_to={"sells": True})
    name = models.CharField(max_length=40)
    slug = models.SlugField(editable=False)
    mark = models.CharField(max_length=3, editable=False)
    bottles = models.PositiveIntegerField(default=100)
    reserved = models.PositiveIntegerField(default=1)
    note = models.CharField(max_length=40, null=True, blank=True)
    internal = models.CharField(max_length=20, default="kept")
    fans = models.ManyToManyField(User, blank=True, limit_choices_to={"is_active": 1})
    tags = TaggableManager(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["name", "winery"], name="wine_once"),
            models.CheckConstraint(condition=models.Q(bottles__gt=0), name="in_stock"),
        ]

    def clean(self):
        self.name = self.name.strip()
        self.slug = slugify(self.name)
        if self.name == "Unnamed":
            raise ValidationError({"name": "Name it.", "internal": "Ask the office."})

    def save(self, *args, **kwargs):
        self.mark = self.name[:3].upper()
        super().save(*args, **kwargs)


class ActiveManager(models.Manager):
    def get_queryset(self):
        return super().get_queryset().filter(is_active=True)


class Cellar(models.Model):
    """Its manager hides rows. Its save() takes no options, and saves twice."""

    number = models.IntegerField(primary_key=True)
    text = models.CharField(max_length=20, blank=True)
    is_active = models.BooleanField(default=True)
    objects = ActiveManager()

    def save(self):
        super().save()
        super().save()


class Album(models.Model):
    """A record with two files, and a third one that its own clean() makes."""

    title = models.CharField(max_length=20, unique=True)
    front = models.FileField(upload_to="albums", blank=True)
    back = models.FileField(upload_to="albums", blank=True, max_length=500)
    thumb = models.FileField(upload_to="thumbs", blank=True, editable=False)

    def clean(self):
        if self.front and not self.front._committed:
            self.thumb = ContentFile(b"small", "thumb.txt")


class AlbumForm(forms.ModelForm):
    class Meta:
        model = Album
        fields = ["title", "front", "back"]


ajax.endpoint.register([Album, AlbumForm])


@contextlib.contextmanager
def files_in_a_folder(**options):
    """Store files in a folder; give a function that returns their contents by path."""

    def read_files(folder="."):
        files = {}
        folders, names = default_storage.listdir(folder)
        for name in names:
            with default_storage.open(f"{folder}/{name}") as file:
                files[f"{folder}/{name}".removeprefix("./")] = file.read()
        for name in folders:
            files |= read_files(f"{folder}/{name}")
        return files

    backend = "django.core.files.storage.FileSystemStorage"
    with tempfile.TemporaryDirectory() as location:
        options = {"location": location, "base_url": "/media/", **options}
        storage = {"BACKEND": backend, "OPTIONS": options}
        with override_settings(STORAGES={"default": storage}):
            yield read_files


class Ration(models.Model):
    text = models.TextField(max_length=5)
    name = models.CharField(max_length=20, blank=True)


def uploads():
    """Return two new files, one of them named like one that is stored."""
    return {
        "front": SimpleUploadedFile("new.txt", b"new"),
        "back": SimpleUploadedFile("old.txt", b"new"),
    }


@ajax.register(Wine)
class WineEndpoint(ajax.ModelEndpoint):
    exclude = ["internal"]


@ajax.register(Cellar)
class ChosenKeyEndpoint(ajax.ModelEndpoint):
    fields = ["pk", "text", "is_active"]


ajax.endpoint.register(Winery)


def fail(*arguments, **named):
    raise ZeroDivisionError


Failing = type("Failing", (ajax.DefaultEncoder,), {"to_dict": fail})


class Writing(AjaxTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.winery, cls.dale, cls.shut = Winery.objects.bulk_create(
            [Winery(name="Hill"), Winery(name="Dale"), Winery(name="Shut", sells=False)]
        )
        cls.gone = User.objects.create_user("gone", is_active=False)
        cls.wine = Wine.objects.create(name="Red", winery=cls.winery, slug="red")
        cls.wine.tags.add("dry")
        cls.path = f"shop/wine/{cls.wine.pk}"
        cls.new = {"name": "White", "winery": str(cls.winery.pk)}
        cls.writes = [("shop/wine", cls.new), (f"{cls.path}/update", {"name": "White"})]
        cls.related = {"tags": ["x"], "fans": [cls.user.pk]}

    def update(self, **data):
        return self.post(f"{self.path}/update", data)["data"]

    def assert_untouched(self):
        rows = Wine.objects.values_list("name", "bottles", "fans")
        self.assertEqual([*rows], [("Red", 100, None)])
        self.assertEqual([*self.wine.tags.names()], ["dry"])

    def test_the_first_thing_that_is_wrong_is_answered(self):
        """All is wrong with the first request. Each further one mends one thing."""
        bob, token, path_ = self.other, "a" * 32, "/ajax/shop/wine/0/update.json"
        self.serve(Wine, can_update=lambda self, user, *records: user == bob)
        client = Client(enforce_csrf_checks=True, raise_request_exception=False)
        sent = {"path": "/ajax/shop/wine/0/up.json", "content_type": "a/b", "data": "{"}
        for mended, status, *extra in (
            ({"method": "GET"}, 405),
            ({"method": "POST"}, 404),
            ({"path": path_}, 403, "csrf"),
            ({"headers": {"X-CSRFToken": token}}, 403, "login_url"),
            (self.user, 415),
            ({"content_type": "application/json"}, 400),
            ({"data": '{"bottles": "x"}'}, 404),
            ({"path": path_.replace("0", str(self.wine.pk))}, 403),
            (bob, 400, "errors"),
            ({"data": '{"bottles": 0}'}, 400, "errors"),
            ({"data": '{"bottles": 5}'}, 200),
        ):
            if isinstance(mended, User):
                client.force_login(mended)
            else:
                sent |= mended
            client.cookies[settings.CSRF_COOKIE_NAME] = token
            with self.subTest(mended):
                reply = client.generic(**sent)
                self.assertEqual(reply.status_code, status, reply.content)
                self.assertEqual({*reply.json()}, {"success", "data", *extra})

    def test_a_key_of_what_the_user_cannot_call_does_not_exist(self):
        def usual_field_queryset(self, request, field):
            return ajax.ModelEndpoint.get_field_queryset(self, request, field)

        pk = self.category_pk()
        missing = {"category": [f"category with pk {pk} does not exist."]}
        for attributes, expected in [
            ({"authenticate": no}, missing),
            ({"operations": ["list"]}, {}),  # A select may be filled by a list.
            ({}, {}),
        ]:
            with self.subTest(attributes):
                self.serve(Category, **attributes)
                status = 400 if expected else 200
                sent = {"title": "New", "category": pk, "price": 1}
                reply = self.post("shop/article", sent, status=status)
                self.assertEqual(reply.get("errors", {}), expected)
                # The same by a query, where there may be a say in it.
                self.serve(Article, get_field_queryset=usual_field_queryset)
                reply = self.post("shop/article", sent, status=status)
                self.assertEqual(reply.get("errors", {}), expected)
                self.doCleanups()

    def category_pk(self):
        return Category.objects.first().pk

    def test_a_write_takes_its_steps_in_order(self):
        def record_step(name, method):
            def hook(self, *args, **kwargs):
                return order.append(name) or method(self, *args, **kwargs)

            return hook

        names = "authenticate get_queryset prepare_record can_create can_get can_update"
        names = f"{names} can_delete save_record delete_record".split()
        hooks = {name: record_step(name, getattr(WineEndpoint, name)) for name in names}
        self.serve(Wine, **hooks)
        for sent in (ajax.ajax_created, ajax.ajax_updated, ajax.ajax_deleted):
            self.receive(sent, lambda **kwargs: order.append("signal"))
        self.receive(m2m_changed, lambda **kwargs: order.append("relations"))
        rows = [
            (
                "shop/wine",
                self.new | self.related,
                "prepare_record can_create clean save_record relations signal "
                "get_queryset can_get",
            ),
            (
                f"{self.path}/update",
                {"name": "Rose", **self.related},
                "get_queryset prepare_record can_update can_get clean save_record "
                "relations signal get_queryset can_get",
            ),
            (
                f"{self.path}/tags/add",
                {"tags": "y"},
                "get_queryset can_get can_update can_get relations",
            ),
            (
                f"{self.path}/delete",
                {},
                "get_queryset can_delete can_get delete_record signal",
            ),
        ]
        clean = record_step("clean", lambda self: None)
        for path_, data, steps in rows:
            order = []
            with self.subTest(path_), mock.patch.object(Wine, "clean", clean):
                self.post(path_, data)
                steps_taken = [name for name, _group in itertools.groupby(order)]
                self.assertEqual(steps_taken, ["authenticate", *steps.split()])

    def test_users_who_may_not_write_learn_nothing_about_validation(self):
        self.serve(Wine, can_create=no, can_update=no)
        bad = ({"bottles": "x"}, {"nothing": 1}, {"name": ""}, {"tags": 5}, {"fans": 0})
        paths = ("shop/wine", f"{self.path}/update", f"{self.path}/tags/add")
        replies = [self.post(path, sent, 403) for path in paths for sent in ({}, *bad)]
        self.assertTrue(all(reply == replies[0] for reply in replies), replies)

    def test_a_hook_that_fails_over_an_unreadable_value_refuses(self):
        # A hook that fails over a value that was not sent refuses, too.
        self.serve(Wine, can_create=lambda self, user, record: record.winery)
        self.post("shop/wine", {"name": "White"}, status=403)
        rows = (({"bottles": "x"}, 403), ({"nothing": 1}, 403), ({}, 500))
        for names in (("can_create", "can_update"), ("prepare_record",)):
            self.serve(Wine, **dict.fromkeys(names, fail))
            for (path_, data), (sent, status) in itertools.product(self.writes, rows):
                with self.subTest(names, path=path_, sent=sent):
                    self.post(path_, data | sent, status=status)

        # A mistake in a hook is no missing value.
        self.serve(Wine, prepare_record=lambda self, request, record, created: self.x)
        self.post("shop/wine", {"winery": self.winery.pk}, status=500)

        # The 403 of another service is an error like any other.
        def ask_elsewhere(self, request, record, created):
            raise HTTPError("http://elsewhere", 403, "Forbidden", {}, None)

        self.serve(Wine, prepare_record=ask_elsewhere)
        self.post("shop/wine", {"bottles": "x"}, status=403)

    def test_hooks_see_the_old_value_in_place_of_an_unreadable_one(self):
        def may(self, user, *records):
            names = ("pk", "bottles", "winery_id", "name")
            return seen.append([getattr(records[-1], name) for name in names]) or True

        seen, bad = [], {"bottles": "x", "winery": "x"}
        self.serve(Wine, can_update=may, can_create=may)
        for path_, data in self.writes:
            errors = self.errors(path_, data | bad)
            self.assertEqual(
                {k: len(v) for k, v in errors.items()}, dict.fromkeys(bad, 1)
            )
        old = [self.wine.pk, 100, self.winery.pk, "White"]
        self.assertEqual(seen, [[None, 100, None, "White"], old])

    def test_prepare_record_comes_before_permission_and_validation(self):
        def prepare_record(self, request, record, created):
            record.note, record.winery = f"{request.user} {created}", winery

        def may(self, user, *records):
            return records[-1].note.startswith("ann") and records[-1].winery == winery

        may_all = {"can_create": may, "can_update": may, "readonly_fields": ["note"]}
        self.serve(Wine, prepare_record=prepare_record, **may_all)
        for (path_, _data), created in zip(self.writes, (True, False), strict=True):
            winery, data = self.shut, {"name": path_, "note": "x"}
            for sent in (data, data | {"winery": str(self.dale.pk)}):
                with self.subTest(path_, sent=sent):
                    self.assertEqual({*self.errors(path_, sent)}, {"winery"})
            winery = self.dale
            self.assertEqual(self.post(path_, data)["data"]["note"], f"ann {created}")

    def test_create_validates_all_fields_and_update_the_changed_ones(self):
        # Invalid old data in other fields does not block an update.
        Wine.objects.update(internal="", winery=self.shut, slug="not one")
        self.assertEqual(self.update(bottles=7)["bottles"], 7)
        for winery in (self.winery, self.shut):
            Wine.objects.create(name="White", winery=winery)
        rows = [
            ({"bottles": "x", "name": "x" * 41}, {"bottles", "name"}),
            ({"bottles": -1, "name": ""}, {"bottles", "name"}),
            ({"bottles": 0, "name": "New"}, {"__all__"}),
            ({}, {"__all__"}),  # There is such a wine already.
            # The error of a hidden field is one of the whole record.
            ({"name": "Unnamed"}, {"name", "__all__"}),
        ]
        for (path_, good), (bad, keys) in itertools.product(self.writes, rows):
            with self.subTest(path_, bad=bad):
                self.assertEqual({*self.errors(path_, good | bad)}, keys)
        for path_ in ("shop/winery", f"shop/winery/{self.dale.pk}/update"):
            self.assertEqual({*self.errors(path_, {"name": "Hill"})}, {"name"})
        self.assertEqual({*self.errors("shop/wine")}, {"name", "winery"})
        self.serve(Wine, fields=["bottles"])
        self.assertEqual({*self.errors("shop/wine")}, {"__all__"})

    def test_an_overridden_full_clean_is_run(self):
        error = ValidationError({"name": "Not now."})
        for path_, data in self.writes:
            with mock.patch.object(Wine, "full_clean", side_effect=error):
                self.assertEqual(self.errors(path_, data), {"name": ["Not now."]})

        # A hook that calls it while saving gets the full validation.
        def save_record(self, request, record, created):
            record.name = "x" * 41
            record.full_clean()

        self.serve(Wine, save_record=save_record)
        for path_, data in self.writes:
            self.assertEqual({*self.errors(path_, data)}, {"name"})

    def test_values_that_clean_and_save_set_are_saved_and_answered(self):
        names = ("Old Hill", "New Hill")
        for (path_, data), name in zip(self.writes, names, strict=True):
            with self.subTest(path_):
                made = self.post(path_, data | {"name": f" {name} "})["data"]
                values = (made["name"], made["slug"], made["mark"])
                self.assertEqual(values, (name, slugify(name), name[:3].upper()))
                self.assertEqual(self.post(f"shop/wine/{made['pk']}/get")["data"], made)
        # The answer is read from the database.
        self.serve(Wine, save_record=lambda *args: Wine.objects.update(bottles=9))
        self.assertEqual(self.update(bottles=8)["bottles"], 9)

    def test_nothing_is_saved_if_validation_leaves_nothing_changed(self):
        saved, same = [], self.shown(self.wine)
        self.serve(Wine, save_record=lambda *args: saved.append("save"))
        self.receive(ajax.ajax_updated, lambda **kwargs: saved.append("signal"))
        for data in ({}, {"bottles": "100"}, {"reserved": 1}, {"name": " Red "}):
            self.update(**data)
        self.assertEqual(saved, [])
        self.update(**same)
        self.assertNotIn("save", saved)

    def test_an_update_does_not_call_refresh_from_db(self):
        old = {"refresh_from_db": lambda self, using=None, fields=None: 1 / 0}
        with mock.patch.multiple(Wine, **old):
            self.assertEqual(self.update(name="Rose")["name"], "Rose")

    def test_a_create_never_overwrites(self):
        self.post("shop/cellar", {"pk": 1, "text": "front"})
        errors = self.errors("shop/cellar", {"pk": 1, "text": "new"})
        self.assertEqual(errors, {"pk": ["Cellar with this Number already exists."]})
        self.post("shop/cellar/1/update", {"is_active": False})
        # Validation does not see a hidden row, or one that was saved meanwhile.
        for key in ("pk", "number"):
            self.post("shop/cellar", {key: 1, "text": "new"}, status=409)
        self.assertEqual(Cellar._base_manager.get().text, "front")
        Country.objects.create(code="fr", name="France")
        with mock.patch.object(Country, "validate_unique"):
            self.post("shop/country", {"code": "fr", "name": "new"}, status=409)
        self.assertEqual(Country.objects.get().name, "France")

    def test_a_signal_is_sent_inside_the_transaction_after_its_last_write(self):
        def receive(sender, instance, request, signal, payload=None, **kwargs):
            transaction.on_commit(mock.Mock())
            related = instance.pk and [*instance.tags.names(), *instance.fans.all()]
            seen.append((signal, instance.name, related, payload, request.user))
            if refuses:
                raise ajax.AJAXError(418, "No")

        related, payload = ["x", self.user], {"pk": self.wine.pk}
        rows = [
            (f"{self.path}/update", ajax.ajax_updated, "Red", related, None),
            (f"{self.path}/delete", ajax.ajax_deleted, "Red", None, payload),
            ("shop/wine", ajax.ajax_created, "White", related, None),
        ]
        for _path, sent, *_expected in rows:
            self.receive(sent, receive)
        for refuses, (path_, *expected) in itertools.product((True, False), rows):
            seen, data = [], self.new | self.related | {"name": expected[1]}
            with self.subTest(path_), self.captureOnCommitCallbacks() as mails:
                self.post(path_, data, status=418 if refuses else 200)
            self.assertEqual(seen, [(*expected, self.user)])
            self.assertEqual(len(mails), not refuses)
            if refuses:
                self.assert_untouched()

    def test_an_error_before_the_answer_undoes_the_write(self):
        write = {
            "save_record": lambda self, request, record, created: fail(record.save()),
            "delete_record": lambda self, request, record: fail(record.delete()),
        }
        shown = ["name", "winery", "bottles", "tags", "fans", "extra"]
        for served, encoder, calls in (
            ({"can_get": fail}, None, self.writes),
            ({"can_get": yes, "fields": shown, "extra": fail}, None, self.writes),
            ({"extra": lambda self, record: object()}, None, self.writes),
            ({"extra": yes}, Failing(), self.writes),
            (write, None, [*self.writes, (f"{self.path}/delete", {})]),
        ):
            self.serve(Wine, **served)
            if encoder:
                self.register_encoder(Wine, encoder)
            for path_, data in calls:
                with self.subTest(served, path=path_):
                    self.post(path_, data and data | self.related, status=500)
                    self.assert_untouched()

    def test_a_written_record_that_the_user_may_not_get_is_answered_as_a_pk(self):
        rows = Wine.objects.filter(reserved=1)
        for hooks in (
            {"can_get": lambda self, user, record: record.reserved == 1},
            {"can_get": yes, "get_queryset": lambda self, request: rows.all()},
        ):
            self.serve(Wine, **hooks)
            made = self.post("shop/wine", self.new | {"reserved": 2})["data"]
            self.assertEqual(made, {"pk": Wine.objects.latest("pk").pk})
            self.assertEqual(self.update(reserved=2), {"pk": self.wine.pk})
            Wine.objects.update(reserved=1, name=models.F("pk"))

    def test_records_with_each_kind_of_key_can_be_created_updated_and_deleted(self):
        Country.objects.create(code="gb", name="Britain")
        track = Track.objects.create(title="A record of the parent only").pk
        self.serve(Royalty, fields=["pk", "share"])
        rows = [  # model, what is sent, what is changed, the key shown, what is none
            ("winery", {"name": "New"}, {"name": "Newer"}, str, "{" * 36),
            ("country", {"code": "it", "name": "I"}, {"name": "Italy"}, "it", "a b"),
            ("country", {"pk": "es", "name": "E"}, {"name": "Spain"}, "es", "abc"),
            ("cellar", {"pk": -7}, {"text": "x"}, -7, "1.5"),
            ("cellar", {"number": "007"}, {"text": "x"}, 7, "9" * 5000),
            ("royalty", {"country": "gb"}, {"share": 9}, "gb", "x y"),
            ("livetrack", {"title": "A"}, {"title": "B", "venue": "C"}, int, track),
        ]
        for model, sent, changes, pk, none in rows:
            with self.subTest(model=model, pk=pk):
                made = self.post(f"shop/{model}", sent)["data"]
                self.assertIn(pk, (made["pk"], type(made["pk"])))
                path_, key = f"shop/{model}/{made['pk']}", {"pk": made["pk"]}
                self.assertEqual(self.post(f"{path_}/get")["data"], made)
                updated = self.post(f"{path_}/update", made | changes)["data"]
                self.assertEqual(updated, updated | changes | key)
                self.assertEqual(self.post(f"{path_}/delete")["data"], key)
                for operation in ("get", "update", "delete"):
                    self.post(f"{path_}/{operation}", status=404)
                    self.post(f"shop/{model}/{none}/{operation}", status=404)
        self.assert_untouched()

    def test_relations_are_limited_by_get_field_queryset_and_limit_choices_to(self):
        def get_field_queryset(self, request, field):
            hidden = {"winery": dale.pk, "fans": request.user.pk}
            return field.related_model.objects.exclude(pk=hidden[field.name])

        dale = self.dale
        self.serve(Wine, get_field_queryset=get_field_queryset)
        for key, refused, good in (
            ("winery", (dale.pk, self.shut.pk, uuid.uuid4()), self.winery.pk),
            ("fans", (self.user.pk, self.gone.pk, 987654321), self.other.pk),
        ):
            messages = set()
            for pk in map(str, refused):
                sent = {key: [pk] if key == "fans" else pk}
                errors = self.errors("shop/wine", self.new | sent)
                self.assertEqual({*errors}, {key})
                messages.add(str(errors).replace(pk, "N"))
            # The message is the same as for a record that is not there.
            self.assertEqual(len(messages), 1, messages)
            self.update(**{key: [good] if key == "fans" else str(good)})

    def test_only_what_is_sent_for_a_relation_is_asked_about(self):
        def can_get(self, user, record):
            asked.append(record.pk)
            return True

        asked = []
        self.serve(User, can_get=can_get)
        self.update(fans=[self.other.pk])
        self.assertEqual({*asked}, {self.other.pk})

    def test_by_default_relations_take_records_that_the_user_may_get(self):
        supplier, private = (Supplier.objects.create(is_private=p) for p in (0, 1))
        hers = Note.objects.create(owner=self.other).pk
        offer = Offer.objects.create(article=self.article, supplier=supplier)
        for model in (User, Winery):
            self.serve(model, can_get=no)
        for path_, key, value in (
            (f"shop/offer/{offer.pk}", "supplier", private.pk),
            (f"shop/offer/{offer.pk}", "note", hers),
            (self.path, "winery", str(self.dale.pk)),
            (self.path, "fans", [self.user.pk]),
        ):
            self.assertEqual([*self.errors(f"{path_}/update", {key: value})], [key])

    def test_related_records_that_are_there_may_be_sent_back_but_none_added(self):
        self.wine.fans.add(self.gone)
        Wine.objects.update(winery=self.shut)
        self.update(**self.shown(self.wine) | {"bottles": 9})
        User.objects.filter(pk=self.other.pk).update(is_active=False)
        sent = {"fans": [self.gone.pk, self.other.pk]}
        self.assertEqual({*self.errors(f"{self.path}/update", sent)}, {"fans"})

    # Keys that are ignored

    def ignored(self, path_, sent, **extra):
        """Return the keys that a reply names as ignored."""
        reply = self.post(path_, sent, **extra)
        self.assertIn("pk", reply["data"])
        return reply.get("ignored")

    def test_a_reply_names_the_keys_that_were_sent_and_not_written(self):
        def shout(self, record):
            return f"{record.name}!"

        def tax(self, record):
            return {"rate": record.bottles, "of": [record.name]}

        fields = ["name", "winery", "bottles", "note", "mark", "shout", "tax", "fans"]
        readonly = ["note", "winery", "bottles", "mark", "fans", "tags"]
        self.serve(
            Wine,
            fields=[*fields, "tags"],
            readonly_fields=readonly,
            prepare_record=lambda self, request, record, created: setattr(
                record, "winery_id", record.winery_id or winery
            ),
            shout=shout,
            tax=tax,
        )
        winery = self.winery.pk
        self.wine.fans.add(self.user)
        update, whole = f"{self.path}/update", self.shown(self.wine)
        # A create names all of them.
        made = {**whole, "id": 5, "name": "Green"}
        names = ["mark", "winery", "bottles", "note", "fans", "tags", "shout", "tax"]
        self.assertCountEqual(self.ignored("shop/wine", made), names)
        self.assertIsNone(self.ignored("shop/wine", {"name": "White"}))
        # An update names those that differ from the record.
        cases = [
            (whole, None),
            ({"pk": 0, "id": 0}, None),
            ({"name": "Rose"}, None),
            ({"bottles": 100, "note": None, "mark": "RED"}, None),
            ({"bottles": "100"}, None),
            ({"bottles": 101, "note": "", "mark": "red"}, ["bottles", "note", "mark"]),
            ({"bottles": "x", "note": [], "mark": None}, ["bottles", "note", "mark"]),
            ({"winery": str(winery)}, None),
            ({"winery": {"pk": str(winery)}}, None),
            ({"winery": str(self.dale.pk)}, ["winery"]),
            ({"winery": None}, ["winery"]),
            ({"winery": "x"}, ["winery"]),
            ({"shout": "Red!", "tax": {"of": ["Red"], "rate": 100}}, None),
            ({"shout": "Red", "tax": {"of": ["Red"], "rate": True}}, ["shout", "tax"]),
            # A method is compared with the reply, a column with what was stored.
            ({"name": "Pink", "shout": "Pink!", "mark": "RED"}, None),
            ({"name": "Pink", "shout": "Red!", "mark": "PIN"}, ["shout", "mark"]),
            ({"fans": [self.user.pk], "tags": ["dry"]}, None),
            ({"fans": [], "tags": "dry, sweet"}, ["fans", "tags"]),
            ({"fans": 5, "tags": 5}, ["fans", "tags"]),
        ]
        for sent, ignored in cases:
            with self.subTest(sent), transaction.atomic():
                self.assertEqual(self.ignored(update, sent), ignored)
                transaction.set_rollback(True)
        for sent, ignored in [
            ({"bottles": "100", "note": "", "mark": "RED", "winery": winery}, None),
            (
                {"bottles": "1", "note": "x", "shout": "Red"},
                ["bottles", "note", "shout"],
            ),
            ({"shout": "Red!", "fans": self.user.pk, "tags": "dry"}, None),
        ]:
            with self.subTest(sent, form=True):
                self.assertEqual(self.ignored(update, sent, form=True), ignored)

    def test_a_key_that_changes_itself_is_not_ignored_if_it_was_as_sent(self):
        crate = Crate.objects.create(label="a.txt")
        whole = self.shown(crate)
        reply = self.post(f"shop/crate/{crate.pk}/update", whole | {"weight": 5})
        self.assertNotIn("ignored", reply)
        self.assertNotEqual(reply["data"]["changed"], whole["changed"])
        sent = {"changed": whole["changed"], "doubled": 2}
        reply = self.post(f"shop/crate/{crate.pk}/update", sent)
        self.assertEqual(reply["ignored"], ["changed", "doubled"])

    def test_the_text_of_a_file_is_ignored_unless_it_is_its_url(self):
        specimen = Specimen.objects.create()
        path_ = f"shop/specimen/{specimen.pk}/update"
        file = {"file": SimpleUploadedFile("a.txt", b"a")}
        url = self.post(path_, file, form=True)["data"]["file"]
        for form in (False, True):
            self.assertIsNone(self.ignored(path_, {"file": url}, form=form))
            for text in ("other.txt", ""):
                ignored = self.ignored(path_, {"file": text}, form=form)
                self.assertEqual(ignored, ["file"])
        self.assertEqual(self.ignored(path_, {"file": "null"}), ["file"])
        self.assertEqual(self.ignored("shop/specimen", {"file": url}), ["file"])
        self.serve(Specimen, readonly_fields=["file"])
        self.assertIsNone(self.ignored(path_, {"file": url}))
        for sent in ({"file": None}, file):
            form = sent is file
            self.assertEqual(self.ignored(path_, sent, form=form), ["file"])
        self.assertEqual(self.shown(specimen)["file"], url)

    def test_of_a_hidden_record_every_key_that_is_not_written_is_ignored(self):
        fields = {"readonly_fields": ["bottles", "mark"]}
        self.serve(Wine, can_get=no, can_update=yes, **fields)
        for bottles in (100, 101):
            sent = {"bottles": bottles, "mark": "RED", "note": "x", "pk": 1}
            reply = self.post(f"{self.path}/update", sent)
            expected = {"data": {"pk": self.wine.pk}, "ignored": ["bottles", "mark"]}
            self.assertEqual(reply, {"success": True, **expected})

    def test_keys_that_an_encoder_may_have_added_are_ignored(self):
        class WineEncoder(ajax.DefaultEncoder):
            def to_dict(self, record):
                data = super().to_dict(record)
                data["name"] = data["name"].upper()
                data["label"] = f"{record.name}, {record.bottles}"
                del data["mark"]
                return data

        self.register_encoder(Wine, WineEncoder())
        update, whole = f"{self.path}/update", self.shown(self.wine)
        self.assertEqual(whole["name"], "RED")
        # What the encoder shows of a column can be sent back.
        reply = self.post(update, whole)
        self.assertEqual(reply, {"success": True, "data": whole})
        for sent, ignored in (
            ({"label": "Red, 7", "bottles": 7}, None),
            ({"label": "Red, 100"}, ["label"]),
            ({"nothing": 1}, ["nothing"]),
            # Whether it is the value of a column that is not shown must not be told.
            ({"mark": "RED"}, ["mark"]),
            ({"mark": "WHI"}, ["mark"]),
        ):
            with self.subTest(sent):
                self.assertEqual(self.ignored(update, sent), ignored)
                Wine.objects.update(bottles=7)
        sent = self.new | {"label": "x"}
        self.assertEqual(self.ignored("shop/wine", sent), ["label"])
        self.assertEqual(self.wine.name, "Red")

    def test_what_an_escaping_encoder_shows_can_be_sent_back(self):
        Category.objects.filter(pk=self.news.pk).update(title="<b>&amp;")
        self.register_encoder(Category, ajax.HTMLEscapeEncoder())
        whole = self.shown(self.news)
        self.assertEqual(whole["title"], "&lt;b&gt;&amp;amp;")
        reply = self.post(f"shop/category/{self.news.pk}/update", whole)
        self.assertEqual(reply, {"success": True, "data": whole})
        self.news.refresh_from_db()
        self.assertEqual(self.news.title, "<b>&amp;")

    def test_a_method_of_the_project_may_change_the_reply(self):
        def update(self, request):
            data = ajax.ModelEndpoint.update(self, request)
            return wrap.answer(data | {"extra": 1})

        def create_two(self, request):
            """An operation that calls create() twice."""
            for name in ("A", "B"):
                request.data = request.data | {"name": name, f"mark{name}": 1}
                self.create(request)
            return "Done."

        wrap = mock.Mock()
        self.serve(Wine, update=update, create_two=create_two)
        path_, sent = f"{self.path}/update", {"mark": "x", "name": "Rose"}
        for answer, beside in (
            (lambda data: data, {}),
            (lambda data: ajax.EnvelopedResponse(data, {"more": 2}), {"more": 2}),
        ):
            wrap.answer = answer
            reply = self.post(path_, sent)
            self.assertEqual(reply.pop("data")["extra"], 1)
            self.assertEqual(reply, {"success": True, "ignored": ["mark"]} | beside)
        wrap.answer = lambda data: ajax.AJAXError(409, "Later.")
        self.assertNotIn("ignored", self.post(path_, sent, 409))
        wrap.answer = lambda data: HttpResponse("as it is")
        url = f"/ajax/{path_}.json"
        response = self.client.post(url, sent, content_type="application/json")
        self.assertEqual(response.content, b"as it is")
        shown = ["name", "winery", "bottles", "markA", "markB"]
        marks = {"markA": yes, "markB": yes}
        self.serve(Wine, fields=shown, readonly_fields=["bottles"], **marks)
        sent = self.new | {"bottles": 1}
        reply = self.post("shop/wine/create_two", sent)
        ignored = ["bottles", "markA", "markB"]
        self.assertEqual(reply, {"success": True, "data": "Done.", "ignored": ignored})

    def test_a_key_that_is_suggested_can_be_written(self):
        self.serve(Wine, readonly_fields=["bottles"])
        message = "Unknown key."
        for path_ in ("shop/wine", f"{self.path}/update"):
            errors = self.errors(path_, {"bottle": 1, "nam": 1, "interna": 1})
            self.assertNotIn("bottles", errors["bottle"][0])
            self.assertEqual(errors["nam"], [f'{message} Did you mean "name"?'])
            self.assertNotIn("internal", errors["interna"][0])
        self.assertIn('"number"', self.errors("shop/cellar", {"numbe": 1})["numbe"][0])
        Cellar(number=1).save()
        errors = self.errors("shop/cellar/1/update", {"numbe": 1})
        self.assertEqual(errors, {"numbe": [message]})

    # Files

    def test_a_file_that_was_stored_for_a_write_that_fails_is_removed(self):
        def save_and_fail(self, request, record, created):
            record.save()
            fail()

        def save_what_is_taken(self, request, record, created):
            record.title = "taken"
            record.save()

        def prepare_record(self, request, record, created):
            record.title = ""

        Album.objects.create(title="taken")
        for status, options in (
            (400, {"prepare_record": prepare_record}),
            (403, {"can_create": no, "can_update": no}),
            (409, {"save_record": save_what_is_taken}),
            (500, {"save_record": save_and_fail}),
            (500, {"can_get": fail, "can_update": yes}),
        ):
            self.serve(Album, **options)
            with files_in_a_folder() as read_files:
                front = SimpleUploadedFile("old.txt", b"old")
                album = Album.objects.create(title="A", front=front)
                before = read_files()
                self.assertEqual(before, {"albums/old.txt": b"old"})
                for path_ in ("shop/album", f"shop/album/{album.pk}/update"):
                    with self.subTest(path_, options=options):
                        sent = {"title": "B", **uploads()}
                        self.post(path_, sent, status, form=True)
                        self.assertEqual(read_files(), before)
                album.delete()
            self.doCleanups()

    def test_a_file_is_removed_if_the_failure_comes_after_the_operation(self):
        def create_and_fail(self, request):
            self.create(request)
            raise ajax.AJAXError(400, "Later.")

        def create_and_go_on(self, request):
            with contextlib.suppress(exceptions.PermissionDenied):
                self.create(request)
            return "It was refused."

        def refuse(**arguments):
            raise exceptions.PermissionDenied

        self.serve(
            Album, create_and_fail=create_and_fail, create_and_go_on=create_and_go_on
        )
        with files_in_a_folder() as read_files:
            sent = {"title": "A"}
            with atomic_requests():
                self.post(
                    "shop/album/create_and_fail", sent | uploads(), 400, form=True
                )
            self.assertEqual(read_files(), {})
            # What was committed before the failure keeps its files.
            self.post("shop/album/create_and_fail", sent | uploads(), 400, form=True)
            names = ["albums/new.txt", "albums/old.txt", "thumbs/thumb.txt"]
            self.assertCountEqual(read_files(), names)
            self.assertEqual(Album.objects.get().front.name, names[0])
            self.receive(ajax.ajax_created, refuse)
            sent = {"title": "B", **uploads()}
            self.post("shop/album/create_and_go_on", sent, form=True)
            self.assertCountEqual(read_files(), names)
            self.doCleanups()
            # A form stores files, too.
            save = Album.save

            def save_and_fail(album):
                save(album)
                fail()

            with mock.patch.object(Album, "save", save_and_fail):
                for is_atomic in (False, True):
                    with atomic_requests(is_atomic):
                        sent = {"title": "C", **uploads()}
                        self.post("shop/albumform", sent, 500, form=True)
                        self.assertCountEqual(read_files(), names)

    def test_a_file_that_a_record_refers_to_is_not_removed(self):
        def save_and_fail(self, request, record, created):
            record.save()
            fail()

        self.serve(Album, save_record=save_and_fail)
        # The storage replaces files, of the same record and of others.
        with files_in_a_folder(allow_overwrite=True) as read_files:
            back = SimpleUploadedFile("old.txt", b"old")
            album = Album.objects.create(title="A", back=back)
            for path_ in ("shop/album", f"shop/album/{album.pk}/update"):
                self.post(path_, {"title": "B", **uploads()}, 500, form=True)
                self.assertEqual(read_files(), {"albums/old.txt": b"new"})

    def test_a_name_that_the_storage_cannot_take_is_an_error_of_its_key(self):
        with files_in_a_folder() as read_files:
            for key, name in (("front", "???"), ("back", "あ" * 99)):
                for path_ in ("shop/album", "shop/albumform"):
                    with self.subTest(path_, key=key):
                        sent = {"title": "A", **uploads()}
                        sent[key] = SimpleUploadedFile(name, b"new")
                        errors = self.errors(path_, sent, form=True)
                        self.assertEqual(errors, {key: ["Give the file another name."]})
                        self.assertEqual(read_files(), {})
            # A name that the project chooses is the project's.
            self.serve(Album, exclude=["thumb"])
            field = Album._meta.get_field("thumb")
            with mock.patch.object(field, "upload_to", lambda *args: "../x"):
                errors = self.errors(
                    "shop/album", {"title": "A", **uploads()}, form=True
                )
                self.assertEqual([*errors], ["__all__"])

        # Another error is no error of a name.
        def save_and_fail(self, request, record, created):
            record.save()
            raise exceptions.SuspiciousFileOperation("/etc/passwd")

        with mock.patch.object(InMemoryStorage, "save", side_effect=OSError(28, "")):
            self.post("shop/album", {"title": "A", **uploads()}, 500, form=True)
        self.serve(Album, save_record=save_and_fail)
        reply = self.post("shop/album", {"title": "A", **uploads()}, 400, form=True)
        self.assertIn("This cannot be processed.", reply["data"]["message"])
        self.assertNotIn("errors", reply)

    def test_a_missing_value_is_named_to_the_developer(self):
        def prepare_record(self, request, record, created):
            record.note = record.winery.name

        self.serve(Wine, prepare_record=prepare_record)
        with self.settings(DEBUG=True):
            reply = self.post("shop/wine", {"name": "A", "bottles": "x"}, 403)
            self.assertIn("Wine has no winery.", reply["hint"])
            self.assertIn("bottles: Enter a whole number.", reply["hint"])
        reply = self.post("shop/wine", {"name": "A", "bottles": "x"}, 403)
        self.assertEqual({*reply}, {"success", "data"})
        self.doCleanups()
        self.serve(Wine, fields=["name"])
        with self.settings(DEBUG=True):
            reply = self.post("shop/wine", {"name": "A"}, 400)
            self.assertEqual([*reply["errors"]], ["__all__"])
            self.assertIn("winery: This field cannot be null.", reply["hint"])
            self.assertIn("prepare_record", reply["hint"])
        self.assertNotIn("hint", self.post("shop/wine", {"name": "A"}, 400))
        for readonly, hint in (["winery"], "winery: This field cannot be"), ([], None):
            self.doCleanups()
            self.serve(Wine, readonly_fields=readonly)
            with self.settings(DEBUG=True):
                reply = self.post("shop/wine", {"name": "A"}, 400)
                self.assertEqual([*reply["errors"]], ["winery"])
                self.assertEqual("hint" in reply, bool(readonly))
                self.assertIn(hint or "", reply.get("hint", ""))

    def test_a_storage_that_cannot_delete_does_not_hide_what_failed(self):
        def save_and_refuse(self, request, record, created):
            record.save()
            raise ajax.AJAXError(409, "Not now.")

        self.serve(Album, save_record=save_and_refuse)
        sent = {"title": "A", **uploads()}
        with (
            mock.patch.object(InMemoryStorage, "delete", side_effect=PermissionError),
            self.assertLogs("django.request", "ERROR") as logs,
        ):
            reply = self.post("shop/album", sent, 409, form=True)
        self.assertEqual(reply["data"]["message"], "Not now.")
        self.assertIn("The file of a failed write is left", logs.output[0])

    def test_a_file_that_prepare_record_stores_is_a_change(self):
        def prepare_record(self, request, record, created):
            record.front.save("other.txt", ContentFile(b"other"), save=False)

        def look(instance, **arguments):
            """Read the file, as an ImageField does to know its size."""
            self.assertIsNotNone(instance.front)

        post_init.connect(look, Album)
        self.addCleanup(post_init.disconnect, look, Album)
        with files_in_a_folder():
            front = SimpleUploadedFile("old.txt", b"old")
            album = Album.objects.create(title="A", front=front)
            self.serve(Album, prepare_record=prepare_record)
            self.post(f"shop/album/{album.pk}/update", {"title": "A"})
            album.refresh_from_db()
            self.assertEqual(album.front.name, "albums/other.txt")

    def test_a_text_longer_than_the_forms_of_its_field_take_is_refused(self):
        self.serve(Ration)
        self.assertEqual([*self.errors("shop/ration", {"text": "123456"})], ["text"])
        ration = Ration.objects.create(text="1234567")
        path = f"shop/ration/{ration.pk}/update"
        self.assertEqual([*self.errors(path, {"text": "123456"})], ["text"])
        # One that is stored already may stay.
        reply = self.post(path, {"text": "1234567", "name": "new"})
        self.assertEqual(reply["data"]["name"], "new")


# --- Races ----------------------------------------------------------------------------


class Races(TransactionTestCase):
    """Threads write to one database. If that is SQLite, it is a file.

    Each of them waits for the others for a minute, since the machine may be busy.
    """

    TIMEOUT = 60
    THREADS, ROUNDS = 8, 3
    COLUMNS = ("char", "text", "words", "slug", "integer", "big", "float", "decimal")
    serve = EndpointHelpers.serve

    def setUp(self):
        if connection.vendor == "sqlite":
            self.use_a_file()
        self.pool = ThreadPoolExecutor(self.THREADS)
        self.addCleanup(self.pool.shutdown)
        self.user, self.other = map(User.objects.create_user, ("ann", "bob"))
        self.client.force_login(self.user)
        self.winery = Winery.objects.create(name="Hill")
        news = Category.objects.create()
        self.article = self.user.articles.create(category=news, title="Old", price=1)
        self.path = f"article/{self.article.pk}"

    def use_a_file(self):
        """Let this thread, and those of the test, use a copy in a file."""
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        name = stack.enter_context(tempfile.TemporaryDirectory()) + "/db.sqlite3"
        memory = connections["default"]
        memory.ensure_connection()
        with contextlib.closing(sqlite3.connect(name)) as file:
            memory.connection.backup(file)
        options = {**memory.settings_dict["OPTIONS"], "timeout": self.TIMEOUT}
        default = {**memory.settings_dict, "NAME": name, "OPTIONS": options}
        stack.enter_context(mock.patch.dict(connections.settings, default=default))
        connections["default"] = connections.create_connection("default")
        stack.callback(connections.__setitem__, "default", memory)
        stack.callback(connections["default"].close)

    def post(self, path, data=None):
        """POST as the first user; return status and data. Threads disconnect."""
        client = Client(raise_request_exception=False)
        client.cookies.update(self.client.cookies)
        path, kind = f"/ajax/shop/{path}.json", "application/json"
        response = client.post(path, data or {}, content_type=kind)
        if threading.current_thread() is not threading.main_thread():
            connections.close_all()
        return response.status_code, response.json()["data"]

    def done(self, path, data=None):
        status, data = self.post(path, data)
        self.assertEqual(status, 200, (path, data))
        return data

    def post_while(self, write, path, data):
        """POST during a transaction that has written; return status and data."""

        def watch(execute, sql, *arguments):
            if sql.startswith("BEGIN") or "UPDATE" in sql:
                is_there.set()
            return execute(sql, *arguments)

        def post():
            with connection.execute_wrapper(watch):
                return self.post(path, data)

        is_there = threading.Event()
        with transaction.atomic():
            write()
            answer = self.pool.submit(post)
            has_asked = is_there.wait(self.TIMEOUT)
            self.assertTrue(has_asked, "It asked for no lock.")
            while connection.vendor != "sqlite" and not self.is_waited_for():
                # MariaDB updates this table at most each tenth of a second.
                self.assertFalse(wait([answer], 0.2).done, "It waited for no lock.")
        return answer.result()

    def is_waited_for(self):
        """Whether another connection waits for this one's transaction."""
        postgres = "pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        mysql = "sys.innodb_lock_waits WHERE blocking_pid = connection_id()"
        waiting = mysql if connection.vendor == "mysql" else postgres
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {waiting}")
            return cursor.fetchone()[0] > 0

    def test_permission_is_checked_on_the_locked_row(self):
        def get_queryset(self, request):
            return Article.objects.filter(author=request.user).distinct()

        def get_form_kwargs(self, request):
            rows = Article.objects.filter(author=request.user).select_for_update()
            return {"instance": get_object_or_404(rows, pk=request.data["pk"])}

        looking = {"authenticate": lambda self, *arguments: self.record}  # Too early.
        served = forms.modelform_factory(Article, fields=["title"])
        self.serve(served, get_form_kwargs=get_form_kwargs)
        rows = Article.objects.filter(pk=self.article.pk)
        move = functools.partial(rows.update, author=self.other)
        calls = [
            (f"{self.path}/update", {"title": "Mine"}),
            (f"{self.path}/update", {"price": "x"}),
            (f"{self.path}/tags/add", {"tags": ["mine"]}),
            (f"{self.path}/delete", {}),
            ("articleform", {"pk": self.article.pk, "title": "Mine"}),
        ]
        for is_atomic, write, hooks, status in (
            (False, move, {}, 403),
            (True, move, {}, 403),
            (False, move, {"get_queryset": get_queryset}, 404),
            (False, rows.delete, {}, 404),
        ):
            self.serve(Article, **looking, **hooks)
            kept = [("Old", self.other.pk)] if write is move else []
            for path_, data in calls:
                self.article.save()
                with self.subTest(path_, hooks=hooks), atomic_requests(is_atomic):
                    expected = 404 if path_ == "articleform" else status
                    self.assertEqual(self.post_while(write, path_, data)[0], expected)
                    self.assertEqual([*rows.values_list("title", "author")], kept)
                    self.assertFalse(TaggedItem.objects.exists())

    def test_an_update_keeps_changes_that_were_committed_before_its_lock(self):
        live = LiveTrack.objects.create(title="One", venue="Hall").pk
        rows = [  # The column may be in the table of the parent.
            (self.path, Article, {"title": "Other"}, {"body": "Mine"}),
            (f"livetrack/{live}", Track, {"title": "Other"}, {"venue": "Mine"}),
        ]
        for path_, model, others, mine in rows:
            with self.subTest(path_):
                write = functools.partial(model.objects.update, **others)
                status, data = self.post_while(write, f"{path_}/update", mine)
                self.assertEqual((status, data), (200, data | others | mine))

    def serve_column(self, name, model, get_instance):
        """Serve a ModelForm of one column of a record; return its path."""
        meta = type("Meta", (), {"model": model, "fields": [name]})
        number = len(ajax.endpoint._registry)
        bases = (forms.ModelForm,)
        form = type(f"Form{number}", bases, {"Meta": meta, "__module__": __name__})
        kwargs = {
            "get_form_kwargs": lambda self, *args: {"instance": get_instance(*args)}
        }
        self.serve(form, **kwargs)
        return f"form{number}"

    def test_a_model_form_keeps_changes_that_were_committed_before_its_lock(self):
        live = LiveTrack.objects.create(title="One", venue="Hall")
        article = Article.objects.filter(pk=self.article.pk)
        for name, model, get_instance, others in [
            ("title", Article, lambda request: article.get(), {"body": "Other"}),
            ("title", Article, lambda request: article.defer("body")[0], {"price": 2}),
            # These are the same instance the second time; one is of two tables.
            ("venue", LiveTrack, lambda request: live, {"title": "Other"}),
            ("first_name", User, lambda request: request.user, {"last_name": "Other"}),
        ]:
            path_ = self.serve_column(name, model, get_instance)
            write = functools.partial(model.objects.update, **others)
            for is_atomic in (False, True):
                sent = {name: f"Mine {is_atomic}"}
                model.objects.update(**dict.fromkeys(others, 1))
                with self.subTest(model, is_atomic=is_atomic):
                    with atomic_requests(is_atomic):
                        status, data = self.post_while(write, path_, sent)
                    self.assertEqual(status, 200, data)
                    stored = model.objects.filter(**sent).values(*others)
                    self.assertEqual([*stored], [others])

    def test_a_model_form_of_a_record_that_is_gone_meanwhile_is_a_404(self):
        rows = Article.objects.filter(pk=self.article.pk)
        mine = rows.filter(author=self.user)
        move = functools.partial(rows.update, author=self.other)
        for write, get_instance in [
            (rows.delete, lambda request: self.article),
            (rows.delete, lambda request: get_object_or_404(rows)),
            (move, lambda request: get_object_or_404(mine)),
        ]:
            self.article.save()
            path_ = self.serve_column("title", Article, get_instance)
            status, data = self.post_while(write, path_, {"title": "Mine"})
            self.assertEqual(status, 404, data)
            self.assertFalse(Article.objects.filter(title="Mine").exists())

    def test_model_forms_of_one_record_wait_for_each_other_and_lose_nothing(self):
        def work(number):
            for turn in range(1, self.ROUNDS + 1):
                self.done(paths[number], {self.COLUMNS[number]: turn})

        specimen = Specimen.objects.create()
        rows = Specimen.objects.filter(pk=specimen.pk)
        paths = []
        for name in self.COLUMNS:
            path_ = self.serve_column(name, Specimen, lambda request: rows.get())
            paths.append(path_)
        for is_atomic in (False, True):
            rows.update(**dict.fromkeys(self.COLUMNS, 0))
            with self.subTest(is_atomic), atomic_requests(is_atomic):
                [*self.pool.map(work, range(self.THREADS))]
            specimen.refresh_from_db()
            counts = {int(getattr(specimen, name)) for name in self.COLUMNS}
            self.assertEqual(counts, {self.ROUNDS})

    @unittest.skipUnless(connection.vendor == "sqlite", "Wants a copy that is behind.")
    def test_a_write_uses_the_database_for_writes_of_the_router(self):
        router = mock.Mock(spec=["db_for_read", "db_for_write"])
        router.db_for_read.return_value = "replica"
        router.db_for_write.return_value = "default"
        replica = {**connections.settings["default"]}
        replica["NAME"] = shutil.copy(replica["NAME"], f"{replica['NAME']}.replica")
        with (
            mock.patch.object(Races, "databases", {"default", "replica"}),
            mock.patch.dict(connections.settings, replica=replica),
            override_settings(DATABASE_ROUTERS=[router]),
        ):
            for hooks in ({}, {"get_queryset": lambda *_: Article.objects.all()}):
                self.serve(Article, **hooks)
                for write in ({"title": "New"}, {"author": self.other}):
                    article = Article.objects.using("default")
                    article.update(**{"author": self.user} | write)
                    title = f"{write} {[*hooks]}"
                    Category.objects.using("default").update(title=title)
                    status, data = self.post(f"{self.path}/update", {"body": title})
                    self.assertEqual(status, 403 if "author" in write else 200)
                    if status == 200:
                        self.assertEqual(data["body"], title)
                        self.assertEqual(data["category"]["title"], title)
                self.assertEqual(article.get().title, "New")
                for name in ("delete", "tags/clear"):
                    self.assertEqual(self.post(f"{self.path}/{name}")[0], 403)
            connections["replica"].close()
            del connections["replica"]

    def test_a_write_is_one_transaction_that_locks_first(self):
        lock = "BEGIN IMMEDIATE" if connection.vendor == "sqlite" else "BEGIN"
        offer = {"article": self.article.pk, "supplier": Supplier.objects.create().pk}
        for is_atomic in (0, 1):
            new = {"name": f"White {is_atomic}", "winery": str(self.winery.pk)}
            red = Wine.objects.create(name=f"Red {is_atomic}", winery=self.winery)
            red = f"wine/{red.pk}"
            for path_, data, *begins in (
                ("wine", new | {"tags": ["a"]}, lock, lock),
                ("offerform", offer | {"price": 1}, lock, lock),
                ("whoami", {}, None, lock),
                (f"{self.path}/publish", {}, None, lock),
                ("article/list", {}, None, "BEGIN"),
                (f"{red}/get", {}, None, "BEGIN"),
                (f"{red}/tags/similar", {}, None, "BEGIN"),
                (f"{red}/update", {"note": "x", "fans": []}, lock, lock),
                (f"{red}/tags/add", {"tags": ["b"]}, lock, lock),
                (f"{red}/delete", {}, lock, lock),
            ):
                with self.subTest(path_), atomic_requests(is_atomic):
                    with CaptureQueriesContext(connection) as queries:
                        self.done(path_, data)
                    statements = [query["sql"] for query in queries]
                    ends = []
                    for sql in statements:
                        if sql.startswith(("BEGIN", "COMMIT")):
                            ends.append(sql)
                    begin = begins[is_atomic]
                    self.assertEqual(ends, [begin, "COMMIT"] if begin else [])
                    if begin:  # The session and the user may be read before it.
                        self.assertLessEqual(statements.index(begin), 2)
                        self.assertEqual(statements[-1], "COMMIT")
        with (
            atomic_requests(),
            CaptureQueriesContext(connection) as queries,
            mock.patch.object(ask, "answer", lambda request: 1, create=True),
        ):
            self.client.post("/plain/")
        self.assertEqual(queries[0]["sql"], lock)
        with CaptureQueriesContext(connection) as queries, transaction.atomic():
            self.assertEqual(queries[0]["sql"], "BEGIN")

    @unittest.skipUnless(connection.vendor == "sqlite", "Wants to see the BEGIN.")
    def test_the_first_write_on_a_connection_locks_first_too(self):
        seen = mock.Mock(side_effect=lambda execute, *arguments: execute(*arguments))
        self.serve(Category, authenticate=yes, can_create=yes)
        connection.close()
        with connection.execute_wrapper(seen):
            Client().post("/ajax/shop/category.json", {"title": "A"})
        self.assertEqual(seen.call_args_list[0].args[1], "BEGIN IMMEDIATE")

    def test_writers_wait_for_each_other_and_lose_nothing(self):
        def save(record, **options):
            """Read the stored record before it is written, and count the writes."""
            stored = Specimen.objects.filter(pk=record.pk).first()
            record.positive = stored.positive + 1 if stored else 0
            models.Model.save(record, **options)

        def work(number):
            for turn in range(1, self.ROUNDS + 1):
                name = f"{number}-{turn}-{is_atomic}"
                self.done(f"{path_}/update", {self.COLUMNS[number]: turn})
                self.done(f"{path_}/tags/add", {"tags": [name]})
                new = {"text": name, "keepers": [self.user.pk], "tags": [f"new-{name}"]}
                self.done("specimen", new)
            self.done(f"specimen/{self.done('specimen')['pk']}/delete")

        writes = self.THREADS * self.ROUNDS
        for is_atomic in (False, True):
            shared = Specimen.objects.create(positive=0)
            path_ = f"specimen/{shared.pk}"
            saving = mock.patch.object(Specimen, "save", save)
            with self.subTest(is_atomic), atomic_requests(is_atomic), saving:
                [*self.pool.map(work, range(self.THREADS))]
            shared.refresh_from_db()
            counts = {int(getattr(shared, name)) for name in self.COLUMNS}
            self.assertEqual(counts, {self.ROUNDS})
            self.assertEqual((shared.positive, shared.tags.count()), (writes, writes))
            made = Specimen.objects.filter(text__endswith=is_atomic, keepers=self.user)
            tagged = TaggedItem.objects.filter(object_id__in=made.values("pk"))
            self.assertEqual((made.count(), tagged.count()), (writes, writes))
            self.assertEqual(Specimen.objects.count(), (writes + 1) * (1 + is_atomic))

    def test_of_creates_with_one_key_exactly_one_wins(self):
        rows = (("country", "name"), ("cellar", "text"))
        for (model, name), key in itertools.product(rows, (1, 2)):
            with self.subTest(model), atomic_requests(key == 2):
                sent = [{"pk": key, name: f"{key}, {n}"} for n in range(self.THREADS)]
                answers = [*self.pool.map(self.post, [model] * len(sent), sent)]
                (won,) = (data for status, data in answers if status == 200)
                self.assertEqual(self.done(f"{model}/{key}/get"), won)
                self.assertLessEqual({status for status, _ in answers}, {200, 400, 409})

    def test_a_delete_during_writes_that_refer_to_it_leaves_no_dangling_key(self):
        def work(number):
            for turn in range(self.ROUNDS):
                pk = categories[turn].pk
                new = {"category": pk, "title": "New", "price": 1, "readers": []}
                path_ = f"category/{pk}/delete" if number % 4 == 0 else "article"
                statuses.append(self.post(path_, new)[0])
                status, page = self.post("article/list", {"items_per_page": 100})
                self.assertEqual(status, 200)
                self.assertEqual(len({article["pk"] for article in page}), len(page))

        for is_atomic in (False, True):
            categories, statuses = [Category.objects.create() for _ in range(9)], []
            with self.subTest(is_atomic), atomic_requests(is_atomic):
                [*self.pool.map(work, range(self.THREADS))]
            # The category may be gone already, or be deleted or used meanwhile.
            expected = {200, 400, 404, 409}
            if connection.vendor != "sqlite":
                expected.add(503)  # The database ends a deadlock.
            self.assertLessEqual({*statuses}, expected)
            there = Category.objects.values("pk")
            self.assertFalse(Article.objects.exclude(category__in=there).exists())

    def test_of_updates_of_one_column_the_last_one_wins_whole(self):
        def work(number):
            sent = {"title": f"{number}", "body": f"{number}", "tags": [f"{number}"]}
            return self.done(f"{self.path}/update", sent | {"readers": [self.user.pk]})

        self.serve(Article, can_update=yes)
        answers = [*self.pool.map(work, range(self.THREADS))]
        for article in (*answers, self.done(f"{self.path}/get")):
            tags = [tag["name"] for tag in article["tags"]]
            self.assertEqual(article["body"], article["title"])
            self.assertEqual(tags, [article["title"]])

    @unittest.skipIf(connection.vendor == "sqlite", "Wants two writers.")
    def test_a_key_that_is_taken_while_a_record_is_saved_is_not_overwritten(self):
        def save(record):
            if record.text == "late":
                self.pool.submit(self.done, "cellar", {"pk": 1}).result()
            models.Model.save(record)

        with mock.patch.object(Cellar, "save", save):
            self.assertEqual(self.post("cellar", {"pk": 1, "text": "late"})[0], 409)
        self.assertEqual(Cellar.objects.get().text, "")

    # What only another try can mend

    def post_each(self, *answers):
        """Have each function answer a call, all at once; return the statuses."""
        calls = iter(answers)
        turn = threading.Lock()

        def answer(request):
            with turn:
                own_answer = next(calls)
            own_answer()

        with mock.patch.object(ask, "answer", answer, create=True):
            posts = [self.pool.submit(self.post, "ask") for _answer in answers]
            replies = [post.result() for post in posts]
        for status, data in replies:
            if status != 200:
                message = "The database is busy. Please try again."
                self.assertEqual(data, {"code": 503, "message": message})
        return sorted(status for status, _data in replies)

    def execute(self, **statements):
        """Run the statements for this vendor of a database."""
        with connection.cursor() as cursor:
            for statement in statements.get(connection.vendor, ()):
                cursor.execute(statement)

    def rename(self, name):
        Winery.objects.filter(pk=self.winery.pk).update(name=name)

    def test_a_lock_that_is_not_had_in_time_is_a_503(self):
        def wait_for_lock():
            self.execute(
                sqlite=["PRAGMA busy_timeout = 20"],
                postgresql=["SET lock_timeout = 20"],
                mysql=["SET innodb_lock_wait_timeout = 1"],
            )
            self.rename("Second")

        with transaction.atomic():
            self.rename("First")
            self.assertEqual(self.post_each(wait_for_lock), [503])

    def test_a_lock_that_is_not_had_at_once_is_a_503(self):
        @transaction.atomic
        def lock():
            list(Winery.objects.select_for_update(nowait=True))

        if not connection.features.has_select_for_update_nowait:
            self.skipTest(f"{connection.vendor} has no NOWAIT.")
        with transaction.atomic():
            self.rename("First")
            self.assertEqual(self.post_each(lock), [503])

    def test_a_deadlock_is_a_503_for_one_of_the_two(self):
        both = threading.Barrier(2, timeout=self.TIMEOUT)

        @transaction.atomic
        def lock(rows):
            first, second = rows
            if connection.vendor == "sqlite":
                first.exists()  # A lock to read, which the other's write waits for.
            else:
                first.update(words="a")
            both.wait()
            second.update(words="b")

        keys = [Specimen.objects.create().pk for _number in range(2)]
        rows = [Specimen.objects.filter(pk=key) for key in keys]
        backwards = functools.partial(lock, rows[::-1])
        statuses = self.post_each(functools.partial(lock, rows), backwards)
        self.assertEqual(statuses, [200, 503])

    def test_a_row_that_has_changed_since_it_was_read_is_a_503(self):
        def rename_elsewhere():
            self.rename("First")
            connections.close_all()

        def read_and_write():
            self.execute(
                postgresql=["SET default_transaction_isolation = 'repeatable read'"],
                mysql=[
                    "SET innodb_snapshot_isolation = ON",
                    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                ],
                sqlite=["PRAGMA journal_mode = WAL"],
            )
            with transaction.atomic():
                self.assertTrue(Winery.objects.exists())
                self.pool.submit(rename_elsewhere).result()
                self.rename("Second")

        self.assertEqual(self.post_each(read_and_write), [503])

    def test_a_statement_that_takes_too_long_is_a_503(self):
        def sleep():
            self.execute(
                postgresql=["SET statement_timeout = 20", "SELECT pg_sleep(9)"],
                mysql=["SET max_statement_time = 0.02", "SELECT SLEEP(9)"],
            )

        if connection.vendor == "sqlite":
            self.skipTest("SQLite limits no statement.")
        self.assertEqual(self.post_each(sleep), [503])


# --- Lists ----------------------------------------------------------------------------


class Lists(AjaxTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        country = Country.objects.create(code="de", name="Germany")
        cls.uuid, hour = uuid.uuid4(), datetime.timedelta(hours=1)
        cls.one = Specimen.objects.create(
            words="one",
            char="alpha",
            kind="a",
            text="Red apple",
            slug="s-1",
            uuid=cls.uuid,
            integer=1,
            big=2**60,
            decimal="1.50",
            float=0.5,
            boolean=True,
            date="2020-02-29",
            time="01:30",
            duration=hour,
            moment="2020-05-01T10:00:00Z",
            json={"key": "x"},
            country=country,
        )
        cls.two = Specimen.objects.create(
            words="two",
            char="beta",
            kind="b",
            text="Green pear",
            integer=5,
            decimal="9",
            float=1,
            boolean=False,
            date="2021-01-01",
            time="13:00",
            duration=9 * hour,
            moment="2021-05-01T10:00:00Z",
            json={"key": "5"},
            twin=cls.one,
        )
        Specimen.objects.create(words="bare")
        cls.one.keepers.add(cls.user, cls.other)
        cls.two.keepers.add(cls.user)
        cls.one.tags.add("red", "sweet")
        cls.two.tags.add("green", "sweet")
        same = {"category": cls.news, "created": cls.article.created, "price": 1}
        for title in ("Ice", "Gold", "Hot"):
            Article.objects.create(title=title, author=cls.user, **same)

    def words(self, sent, **extra):
        """Return the specimens in a list, and check that its total is their number."""
        reply = self.post("shop/specimen/list", sent, **extra)
        words = [record["words"] for record in reply["data"]]
        self.assertEqual(reply["total"], len(words))
        return " ".join(words)

    def titles(self, **sent):
        articles = self.post("shop/article/list", sent)["data"]
        return " ".join(article["title"] for article in articles)

    def refuse(self, key, value):
        """Check that a parameter of a list is refused; return why."""
        errors = self.errors("shop/specimen/list", {key: value})
        self.assertEqual([*errors], [key])
        return errors[key][0]

    def assert_filter(self, listed, key, values, found_by, varying=()):
        """Check what each value of a filter finds: a text of a column of records.

        `listed` is the model and the column. `found_by` has the values by what they
        find; one that stands there twice finds what stands last, and one that does not
        is refused. Some databases refuse the `varying` ones.
        """
        model, column = listed
        expected = {}
        for found, takes in found_by.items():
            for value in takes:
                expected[json.dumps(value)] = found
        for value in values:
            text = json.dumps(value)
            body = json.dumps({key: value}).encode()
            with self.subTest(key, value=text[:60]):
                with transaction.atomic():  # PostgreSQL goes on after an error.
                    status, reply = self.send(f"shop/{model}/list", body)
                    transaction.set_rollback(True)
                if status == 200:
                    found = " ".join(str(record[column]) for record in reply["data"])
                    self.assertEqual(found, expected.get(text, "a refusal"))
                    self.assertEqual(reply["total"], len(reply["data"]))
                    continue
                self.assertEqual(status, 400, reply)
                if value not in varying:
                    self.assertEqual(expected.get(text, "a refusal"), "a refusal")
                    self.assertEqual([*reply["errors"]], [key])

    def test_an_empty_text_is_a_question_that_is_not_asked(self):
        self.serve(Specimen, sortable_by=["char"], search_fields=["char"])
        keys = [
            "char",
            "integer",
            "boolean",
            "date__year",
            "country",
            "country__isnull",
        ]
        keys += ["keepers", "json__key", "tags", "search", "order_by", "current_page"]
        for key in keys:
            with self.subTest(key):
                self.assertEqual(self.words({key: ""}), "one two bare")
                self.assertEqual(self.words({key: ""}, form=True), "one two bare")
        self.assertEqual(self.words(dict.fromkeys(keys, "")), "one two bare")
        self.refuse("chra", "")

    def test_filters_and_searches_through_a_relation_see_what_its_endpoint_shows(self):
        hidden = Note.objects.create(owner=self.other, text="secret")
        mine = Note.objects.create(owner=self.user, text="shown")
        supplier = Supplier.objects.create(name="Acme")
        for note in (hidden, mine, None):
            Offer.objects.create(article=self.article, supplier=supplier, note=note)
        self.serve(
            Offer,
            search_fields=["^note__text", "supplier__name"],
            list_filter=[
                "note__text", "note__text__startswith", "note__owner__username",
                "note", "note__pk__gt", "note__isnull", "note__text__isnull",
            ],
        )  # fmt: skip
        #: What is sent, how many offers it finds, and how many if all notes are shown.
        cases = [
            ({"note__text": "secret"}, 0, 1),
            ({"note__text": ["secret", "shown"]}, 1, 2),
            ({"note__text__startswith": "s"}, 1, 2),
            ({"note__owner__username": "bob"}, 0, 1),
            ({"note__text__isnull": False}, 1, 2),
            ({"search": "secret"}, 0, 1),
            ({"search": "secret acme"}, 0, 1),
            ({"search": "shown acme"}, 1, 1),
            ({"search": "acme"}, 3, 3),
            ({"search": '"sho" acme'}, 1, 1),
            ({"search": ""}, 3, 3),
            # The key itself is shown with the offer.
            ({"note": hidden.pk}, 1, 1),
            ({"note__pk__gt": 0}, 2, 2),
            ({"note__isnull": True}, 1, 1),
        ]
        for sent, count, _count_of_all in cases:
            with self.subTest(sent):
                self.assertEqual(self.post("shop/offer/list", sent)["total"], count)
        self.serve(Note, get_queryset=lambda self, request: Note.objects.all())
        for sent, _count, count_of_all in cases:
            with self.subTest(sent, shown="all"):
                reply = self.post("shop/offer/list", sent)
                self.assertEqual(reply["total"], count_of_all)
        self.serve(Note, authenticate=no)
        for sent in [{"note__text": "shown"}, {"search": "shown"}]:
            with self.subTest(sent, shown="none"):
                self.assertEqual(self.post("shop/offer/list", sent)["total"], 0)

    def test_so_do_those_through_many_and_through_several_relations(self):
        self.serve(
            Article,
            list_filter=["readers__username", "readers", "category__parent__title"],
            search_fields=["readers__username"],
        )
        self.article.readers.add(self.user, self.other)
        #: What is sent, and how many articles it finds: if all users are shown, and if
        #: only the user is.
        cases = [
            ({"readers__username": ["ann", "bob"]}, 1, 1),
            ({"readers__username": "bob"}, 1, 0),
            ({"readers": self.other.pk}, 1, 1),
            ({"search": "bob"}, 1, 0),
            ({"search": "ann"}, 1, 1),
        ]
        for sent, count, _count_if_narrowed in cases:
            with self.subTest(sent):
                self.assertEqual(self.post("shop/article/list", sent)["total"], count)

        def get_queryset(self, request):
            return User.objects.filter(pk=request.user.pk)

        self.serve(User, get_queryset=get_queryset)
        for sent, _count, count_if_narrowed in cases:
            with self.subTest(sent, shown="the user"):
                reply = self.post("shop/article/list", sent)
                self.assertEqual(reply["total"], count_if_narrowed)
        sent = {"category__parent__title": "News"}
        self.assertEqual(self.post("shop/article/list", sent)["total"], 1)
        self.serve(Category, authenticate=no)
        self.assertEqual(self.post("shop/article/list", sent)["total"], 0)

    def test_page_numbers_are_clamped_and_junk_counts_as_the_default(self):
        self.serve(Article, list_per_page=3)
        all_titles, size = ["First", "Ice", "Gold", "Hot"], "items_per_page"
        junk = ("x", "", None, [], [1, 2], {}, 1.5, True, "1_0", "\u0663")
        far = (2**53, 2**63, 10**20, "9" * 20)
        for sent, per_page, page in (
            ({}, 3, 1),
            ({"current_page": 2}, 3, 2),
            ({"current_page": 3}, 3, 3),
            ({"current_page": "2", size: "2"}, 2, 2),
            ({"current_page": 0}, 3, 1),
            ({"current_page": -1, size: -1}, 1, 1),
            ({size: 1000}, 100, 1),
            *(({"current_page": value, size: value}, 3, 1) for value in junk),
            *(({"current_page": value, size: value}, 100, 2**53 - 1) for value in far),
        ):
            with self.subTest(sent=sent):
                reply = self.post("shop/article/list", sent)
                titles = [record["title"] for record in reply["data"]]
                self.assertEqual(titles, all_titles[(page - 1) * per_page :][:per_page])
                counts = [reply[key] for key in (size, "total", "total_pages")]
                self.assertEqual(counts, [per_page, 4, -(-4 // per_page)])
                self.assertEqual(reply["current_page"], page)
        self.assertEqual(self.post("shop/category/list")["items_per_page"], 20)
        for text, count in (("9" * 5000, 0), ("2", 1), ("two", 3)):
            reply = self.post("shop/article/list", {"current_page": text}, form=True)
            self.assertEqual(len(reply["data"]), count)
        with self.settings(AJAX_MAX_PER_PAGE=2):
            for options, sizes in (({}, (2, 2)), ({"max_per_page": 30}, (3, 30))):
                self.serve(Article, **options)
                replies = [self.post("shop/article/list", e) for e in ({}, {size: 99})]
                self.assertEqual(tuple(reply[size] for reply in replies), sizes)

    def test_the_client_may_order_by_what_sortable_by_names(self):
        for order, titles in (
            ("title", "First Gold Hot Ice"),
            ("-title", "Ice Hot Gold First"),
            ("created,-title", "Ice Hot Gold First"),
            ("", "First Ice Gold Hot"),
            (["-category__title", "title"], "Gold Hot Ice First"),
            (" -category__title , title", "Gold Hot Ice First"),
            (",".join(["created"] * 9 + ["title"]), "First Gold Hot Ice"),
        ):
            with self.subTest(order=order):
                self.assertEqual(self.titles(order_by=order), titles)
        unknown = ("moments", "--char", "country", "country__name", "pk", "?")
        for order in (*unknown, ",".join(["char"] * 11), 7, None, {}, [[]], [5]):
            with self.subTest(order=order):
                self.refuse("order_by", order)
        self.assertIn('Did you mean "char"?', self.refuse("order_by", "-chra"))
        message = "Records cannot be ordered by this."
        self.assertEqual(self.refuse("order_by", "country"), message)

    def test_the_default_order_is_the_endpoints_or_the_models_then_by_pk(self):
        for order in ("", "created", "-created"):  # Pages never overlap.
            sent = {"order_by": order, "items_per_page": 1}
            pages = [self.titles(current_page=page, **sent) for page in (1, 2, 3, 4)]
            self.assertEqual(pages, ["First", "Ice", "Gold", "Hot"])
        Article.objects.filter(title="Gold").update(created=timezone.now())
        self.assertEqual(self.titles(), "Gold First Ice Hot")
        self.serve(Article, ordering=["price", "-pk"])
        self.assertEqual(self.titles(), "Hot Gold Ice First")
        self.assertEqual(self.words({}), "one two bare")

    def test_a_list_holds_records_of_get_queryset_that_can_get_allows(self):
        for owner, shown in ((self.user, True), (self.other, False)):
            Note.objects.create(owner=owner)
            Supplier.objects.create(is_private=not shown)
            Sponsor.objects.create(is_active=shown)
        for path, total in (("note", 1), ("sponsor", 1), ("supplier", 2)):
            with self.subTest(path):
                reply = self.post(f"shop/{path}/list")
                self.assertEqual((len(reply["data"]), reply["total"]), (1, total))

    def test_an_endpoint_may_change_the_data_of_its_list(self):
        def list(self, request):
            page = OpenEndpoint.list(self, request)
            return page.data.pop() and page

        self.serve(Article, list=list)
        self.assertEqual(self.titles(), "First Ice Gold")

    def test_search_finds_records_that_hold_every_word_as_in_the_admin(self):
        for search, found in (
            ("", "one two bare"),
            ("  ", "one two bare"),
            ("LPH", "one"),
            ("alpha red", "one"),
            ("alpha green", ""),
            ("green", "two"),
            ("pear", ""),
            ('"green pear"', "two"),
            ("s-1", "one"),
            ("s-", ""),
            ("%", ""),
            ("_", ""),
            ("a " * 10, "one two"),
            ("a" * 1000, ""),
        ):
            with self.subTest(search=search):
                self.assertEqual(self.words({"search": search}), found)
        for wrong in (1, None, ["a"], {}, "a " * 11, "a" * 60_000, 'x\\" ' * 20_000):
            with self.subTest(wrong=str(wrong)[:9]):
                self.refuse("search", wrong)
        self.assertEqual(self.words({"search": "beta", "integer": 1}), "")
        self.serve(Specimen, search_fields=["keepers__email", "integer__exact"])
        self.assertEqual(self.words({"search": "example"}), "one two")
        self.assertEqual(self.words({"search": "5"}), "two")

    def test_filters(self):
        ann, bob, pk = self.user.pk, self.other.pk, self.one.pk
        in_capitals = "one" if IGNORES_CASE else ""
        found_by_key = {
            "char": [
                ("alpha", "one"),
                (["alpha", "beta"], "one two"),
                (None, "bare"),
                ([None, "beta"], "two bare"),
                ([], ""),
                ("ALPHA", in_capitals),
                ({}, "refused"),
                (["alpha"] * 100, "one"),
                (["x"] * 101, "refused"),
            ],
            "text__icontains": [
                ("PEAR", "two"),
                (["red", "green"], "one two"),
                ("%", ""),
                (1, ""),
                (None, "refused"),
                ("x" * 1000, ""),
                ("x" * 1001, "refused"),
            ],
            "uuid": [
                (str(self.uuid), "one"),
                ("x", "refused"),
            ],
            "kind": [
                ("b", "two"),
            ],
            "integer": [
                (5, "two"),
                ("5", "two"),
                ([1, 5], "one two"),
                (2**70, ""),
                ([1, 2**70], "one"),
                (None, "bare"),
                ("x", "refused"),
                (True, "refused"),
                (1.5, "refused"),
                ({}, "refused"),
                ([[1]], "refused"),
                ([1, "x"], "refused"),
                ([*range(101)], "refused"),
            ],
            "integer__gte": [
                (2, "two"),
                (2**70, ""),
                (None, "refused"),
            ],
            "big": [
                (2**60, "one"),
                (str(2**60), "one"),
                (-(2**60), ""),
            ],
            "decimal__lt": [
                ("2.5", "one"),
                (2.5, "one"),
                ("NaN", "refused"),
            ],
            "float__gt": [
                (0.75, "two"),
                ("inf", "refused"),
            ],
            "time__hour": [
                (13, "two"),
            ],
            "boolean": [
                (True, "one"),
                ("false", "two"),
                ([True, False], "one two"),
                (None, "bare"),
                ("maybe", "refused"),
            ],
            "date__year": [
                (2020, "one"),
                (["2020", "2021"], "one two"),
                ("x", "refused"),
                (0, "refused"),
                (10**9, "refused"),
                ("--5", "refused"),
            ],
            "moment": [
                ("2020-05-01T12:00+02:00", "one"),
                ("2020-05-01 10:00", "one"),
                ("soon", "refused"),
                ("0001-01-01T12:00:00Z", "refused"),
                (None, "bare"),
            ],
            "moment__gte": [
                ("2021-01-01", "two"),
                ("9999-12-31T00:00:00Z", "refused"),
                (None, "refused"),
                (5, "refused"),
            ],
            "moment__date": [
                ("2020-05-01", "one"),
                ("2020-02-30", "refused"),
            ],
            "date": [
                ("2020-02-29", "one"),
                ("soon", "refused"),
            ],
            "duration__lte": [
                ("05:00:00", "one"),
                ("P1D", "one two"),
                ("x", "refused"),
            ],
            "json__key": [
                ("5", "two"),
                (["x", "5"], "one two"),
                ("y", ""),
            ],
            "country": [
                ("de", "one"),
                ({"pk": "de"}, "one"),
                ("xx", ""),
                (None, "two bare"),
                ([None, "de"], "one two bare"),
                ([["de"]], "refused"),
            ],
            "country__name__startswith": [
                ("Ger", "one"),
                ("any", ""),
            ],
            "country__pk": [
                ("de", "one"),
                (["de", "xx"], "one"),
                ("xx", ""),
            ],
            "country__isnull": [
                (True, "two bare"),
                ("false", "one"),
                (2, "refused"),
                ([True, False], "one two bare"),
                ("maybe", "refused"),
                (None, "refused"),
            ],
            "keepers": [
                (bob, "one"),
                ([ann, bob], "one two"),
                (None, "bare"),
                ("x", "refused"),
                ([{}], "refused"),
            ],
            "twin": [
                (pk, "two"),
                (-1, ""),
                (None, "one bare"),
            ],
            "tags": [
                ("red", "one"),
                ("red, sweet", "one two"),
                ([], ""),
                ("RED", "one" * IGNORES_CASE),
                (["red", {"name": "green"}, "sweet"], "one two"),
                (7, "refused"),
                ([7], "refused"),
                (None, "refused"),
                (["x" * 101], "refused"),
                (["x"] * 101, "refused"),
            ],
        }
        for key, cases in found_by_key.items():
            for value, found in cases:
                with self.subTest(key, value=str(value)[:40]):
                    if found == "refused":
                        self.refuse(key, value)
                    else:
                        self.assertEqual(self.words({key: value}), found)
        several = {"integer__gte": 1, "keepers": [ann, bob], "tags": "sweet, red"}
        self.assertEqual(self.words(several | {"kind": "b"}), "two")
        self.serve(Specimen, list_filter=["char__in", "integer__in"])
        for sent in ({"char__in": ["beta", "x"]}, {"integer__in": 5}):
            self.assertEqual(self.words(sent), "two")

    def test_a_refusal_over_a_limit_names_the_limit(self):
        for key, value, most in (
            ("char", ["x"] * 101, 100),
            ("text__icontains", "x" * 1001, 1000),
            ("search", "a " * 11, 10),
            ("order_by", ["char"] * 11, 10),
            ("tags", ["x"] * 101, 100),
        ):
            with self.subTest(key):
                self.assertRegex(self.refuse(key, value), rf"\b{most}\b")

    def test_filters_in_a_form(self):
        for sent, found in (
            ({"integer": ["1", "5"]}, "one two"),
            ({"char": "null"}, ""),
            ({"integer[]": ["1", "5"]}, "one two"),
            ({"integer": "null"}, "bare"),
            ({"country__isnull": "on"}, "two bare"),
            ({"tags": "red,green"}, "one two"),
            ({"tags": ["red", "green"]}, "one two"),
            ({"search": "beta"}, "two"),
        ):
            with self.subTest(sent=sent):
                self.assertEqual(self.words(sent, form=True), found)
        for key in ("country__isnull", "char", "keepers", "tags"):
            upload = {key: SimpleUploadedFile("1", b"1")}
            self.assertIn(key, self.errors("shop/specimen/list", upload, form=True))

    def test_filters_by_who_refers_to_a_record_see_what_may_be_seen(self):
        hidden = Note.objects.create(owner=self.other, article=self.article, text="a")
        entries = ["note", "note__pk", "note__pk__lt", "note__isnull", "note__id__gte"]
        self.serve(
            Article,
            list_filter=[*entries, "category__article__note"],
            search_fields=["=note__id"],
        )
        path_ = "shop/article/list"

        def find(**sent):
            return [article["pk"] for article in self.post(path_, sent)["data"]]

        others = [
            *Article.objects.exclude(pk=self.article.pk).values_list("pk", flat=True)
        ]
        questions = (
            {"note": hidden.pk},
            {"note__pk": [hidden.pk]},
            {"note__pk__lt": hidden.pk + 1},
            {"note__id__gte": 0},
            {"note__isnull": False},
            {"search": str(hidden.pk)},
        )
        for sent in questions:
            with self.subTest(sent):
                self.assertEqual(find(**sent), [])
        for sent in (
            {"note__isnull": True},
            {"note__isnull": [True]},
            {"note": None},
            {"note": [None, hidden.pk]},
        ):
            with self.subTest(sent):
                self.assertCountEqual(find(**sent), [self.article.pk, *others])
        Note.objects.update(owner=self.user)
        for sent in questions:
            with self.subTest(sent, owner="me"):
                self.assertEqual(find(**sent), [self.article.pk])
        self.assertCountEqual(find(note__isnull=True), others)
        self.assertCountEqual(find(note=[None, hidden.pk]), [self.article.pk, *others])
        by_form = self.post(path_, {"note": ["null"]}, form=True)["data"]
        self.assertCountEqual([article["pk"] for article in by_form], others)

    def test_parameters_in_the_query_string_are_refused(self):
        for query in ("status=closed", "title=First", "x"):
            reply = self.post("shop/article/list", status=400, QUERY_STRING=query)
            message = "Send the parameters in the body, not in the query string."
            self.assertEqual(reply["data"]["message"], message)
        self.post("shop/article/list", QUERY_STRING="")
        self.post(f"{self.path}/get", QUERY_STRING="status=closed")
        self.serve(Article, can_list=no)
        self.post("shop/article/list", status=403, QUERY_STRING="x")

    def test_an_unknown_filter_is_refused(self):
        for key in (
            "chra",
            "words",
            "char__regex",
            "char__in",
            "integer__lte",
            "country__code",
            "country__name",
            "tags__name",
            "keepers__email",
            "pk",
            "id",
            "",
            "a" * 500,
        ):
            with self.subTest(key):
                self.refuse(key, 1)
        for key, suggestion in (("integer_gte", "integer__gte"), ("serach", "search")):
            self.assertIn(f'Did you mean "{suggestion}"?', self.refuse(key, 1))
        with self.settings(DEBUG=True):
            reply = self.post("shop/specimen/list", {"words": 1, "kind": "a"}, 400)
            self.assertIn("list takes big, boolean, char, ", reply["hint"])
            advice = "To filter or search by more, set list_filter or search_fields."
            self.assertIn(advice, reply["hint"])
            reply = self.post("shop/specimen/list", {"date__year": "a"}, 400)
            self.assertNotIn("hint", reply)
        flood = {f"key{number}": 1 for number in range(50)}
        self.assertEqual(len(self.errors("shop/specimen/list", flood)), 20)
        self.assertEqual(
            [*self.errors("shop/supplier/list", {"search": "a"})], ["search"]
        )

    def test_odd_values_of_a_filter_find_what_they_mean_or_are_refused(self):
        durations = ["P999999999D", "999999999 23:59:59", "-999999999 00:00:00"]
        days = ["0001-01-01", "9999-12-31"]
        long_digits = ["9" * 20, "9" * 5000]
        texts = ["x", "%", "\\", "[", "{", "--5", "1e400", "NaN", "-Infinity", "9" * 20]
        texts += ["0000-00-00", "0001-01-01T00:00:00+14:00", "24:00:00", "\U0001f600"]
        texts += ["9999-12-31T23:59:59-14:00", *days, *durations]
        large = [2**31, 2**63, 10**30]
        integers = [0, -1, -(2**64), *large]
        numbers = [*integers, 1e308, -0.5]
        mixed = [2**63, "x"]
        all_texts = ["null", *texts]
        scalars = [*all_texts, True, *numbers, mixed]
        objects = [[[]], {}, [{}], {"pk": {}}, {"pk": None}, {"pk": [1]}, {"": ""}]
        values = [*scalars, "9" * 5000, None, [None], *objects]
        # JSON's null, and the text for it where a text can be nothing else.
        null = [None, [None]]
        null_text = [*null, "null"]
        found_by_key = {
            "char": {"": [*all_texts, *numbers, mixed], "bare": null},
            "kind": {"": [*all_texts, *numbers, mixed], "bare": null},
            "text__icontains": {"": scalars},
            "uuid": {"two bare": null_text},
            "integer": {"bare": null_text, "": [*integers, "9" * 20]},
            "integer__gte": {
                "": [*large, "9" * 20],
                "one two": [0, -1],
                # Django drops the condition if each number of the column is larger.
                "one two bare": [-(2**64)],
            },
            "big": {"two bare": null_text, "": [*integers, "9" * 20]},
            "decimal__lt": {
                "one two": ["1e400", *long_digits, *large, 1e308],
                "": [0, -1, -(2**64), -0.5],
            },
            "float__gt": {
                "": ["9" * 20, *large, 1e308],
                "one two": [0, -1, -(2**64), -0.5],
            },
            "boolean": {"two": [0], "one": [True], "bare": null_text},
            "date": {"bare": null_text, "": days},
            "date__year": {"": [True]},
            "time__hour": {"": ["9" * 20, *numbers], "one": [True]},
            "moment": {"bare": null_text},
            "moment__date": {"": days},
            "moment__gte": {},
            "duration__lte": {
                "": [0, -1, -0.5, durations[2]],
                "one two": ["24:00:00", 2**31, *durations[:2]],
            },
            "json__key": {"": scalars, "one": ["x", mixed]},
            "country": {
                "": [*all_texts, *numbers, mixed, "9" * 5000],
                "two bare": null_text,
            },
            "country__name__startswith": {"": scalars},
            "country__isnull": {"one": [0], "two bare": [True]},
            "country__pk": {"": [*all_texts, *numbers, mixed], "two bare": null},
            "keepers": {"bare": null_text, "": [0, -1, 2**31]},
            "twin": {"one bare": null_text, "": [0, -1, 2**31]},
            "positive": {"one two bare": null_text, "": [*integers, "9" * 20]},
            "json": {"": [*scalars, *objects], "bare": null_text},
            "address": {
                "": [*texts, *numbers, mixed],
                "one two bare": null_text,
            },
            "slug__endswith": {"": scalars, "one": [-1]},
            "moment__time": {},
            "file": {"": [*all_texts, *numbers, mixed, *null]},
            "moment__week_day": {"": ["9" * 20, True, *numbers]},
            "moment__year__gte": {"one two": [True]},
            "keepers__date_joined__date": {"": days},
            "duration": {
                "": ["24:00:00", 0, -1, 2**31, -0.5, *durations],
                "bare": null_text,
            },
            "binary": {
                "": ["9" * 20, "9" * 5000],
                "one two bare": null_text,
            },
            "float": {"bare": null_text, "": ["9" * 20, *numbers]},
            "decimal": {"bare": null_text, "": ["1e400", *long_digits, *numbers]},
            "tags": {"": all_texts},
        }
        varying = {
            "address": [*texts, *numbers, mixed],
            "duration": durations,
            "duration__lte": durations,
            "keepers": [2**31],
        }
        self.assertLessEqual({*SpecimenEndpoint.list_filter}, found_by_key.keys())
        self.serve(Specimen, list_filter=[*found_by_key.keys() - {"tags"}])
        for key, found_by in found_by_key.items():
            listed = ("specimen", "words")
            self.assert_filter(listed, key, values, found_by, varying.get(key, ()))

    def test_a_key_of_json_is_compared_as_the_database_does(self):
        self.serve(Specimen, list_filter=["json__key__gt"])
        values = ["x", "null", "%", "--5", "NaN", "9" * 20, "\U0001f600"]
        for value in [*values, True, 0, -1, 2**31, 1e308, -0.5]:
            with self.subTest(value=value):
                specimens = Specimen.objects.filter(json__key__gt=value).order_by("pk")
                expected = " ".join(specimen.words for specimen in specimens)
                self.assertEqual(self.words({"json__key__gt": value}), expected)
        for value in ("9" * 5000, None, [None], [[]], {}, [{}], {"pk": 1}):
            with self.subTest(value=str(value)[:20]):
                self.refuse("json__key__gt", value)

    def test_several_values_for_a_key_of_json_find_what_each_of_them_finds(self):
        self.serve(Specimen, list_filter=["json__key", "json__a__0__in", "json__b__gt"])
        stored = [True, False, 1, 0, 1.5, "1", "true", "x", "", None, [1], {"b": 1}]
        Specimen.objects.all().delete()
        for value in stored:
            json = {"key": value, "a": [value], "b": value}
            Specimen.objects.create(words=repr(value), json=json)

        def find(key, values):
            return set(self.words({key: values, "items_per_page": 100}).split())

        values = [True, 1, 1.5, "x", "true", False, "nothing"]
        for key in ("json__key", "json__a__0__in"):
            for chosen in (values, values[:2], values[2:5], ["x", "x"], [0, False]):
                with self.subTest(key, values=chosen):
                    expected = set().union(*(find(key, value) for value in chosen))
                    self.assertEqual(find(key, chosen), expected)
        # A lookup is no key.
        more = find("json__b__gt", [0, 1])
        self.assertEqual(more, find("json__b__gt", 0) | find("json__b__gt", 1))

    def test_json_is_read_once_per_row_however_many_values_are_sent(self):
        column = connection.ops.quote_name("json")
        counts = []
        for values in (["no", "none"], [f"x{number}" for number in range(100)]):
            with CaptureQueriesContext(connection) as queries:
                self.post("shop/specimen/list", {"json__key": values})
            counts.append(max(query["sql"].count(column) for query in queries))
        self.assertEqual(counts[0], counts[1])

    @unittest.skipUnless(connection.vendor == "postgresql", "arrays and ranges")
    @isolate_apps("test_ajax")
    def test_filters_of_arrays_and_ranges(self):
        from django.contrib.postgres.fields import ArrayField, IntegerRangeField

        marks = ArrayField(models.IntegerField())
        span = IntegerRangeField(null=True, blank=True)
        Ruler = make_model("Ruler", marks=marks, span=span)
        with connection.schema_editor() as editor:
            editor.create_model(Ruler)
        Ruler.objects.create(marks=[1, 2], span=(1, 5))
        keys = ["marks", "marks__contains", "marks__overlap", "marks__len", "marks__0"]
        keys += ["span", "span__contains", "span__overlap", "span__contained_by"]
        self.serve(Ruler, list_filter=keys, can_list=yes)
        shown = self.post("shop/ruler/list")["data"][0]
        self.assertEqual((shown["marks"], shown["span"]), ([1, 2], "[1, 5)"))
        # A range is shown, and cannot be written.
        made = self.post("shop/ruler", {"marks": [3], "span": "x"})["data"]
        self.assertEqual((made["marks"], made["span"]), ([3], None))
        for odd in ({"3": 1}, "3", '"34"', 3, [[3]]):
            self.assertEqual([*self.errors("shop/ruler", {"marks": odd})], ["marks"])
        values = [None, 1, "x", "1", "[1]", "[3]", "{1}", "[1,5)", [1], [[1]], [[3]]]
        values += [{}, 2**70]
        found_by_key = dict.fromkeys(keys, {})
        found_by_key["marks"] = {"": [None, "[1]", [[1]]], "[3]": ["[3]", [[3]]]}
        found_by_key["span"] = {"[3]": [None]}
        for key, found_by in found_by_key.items():
            self.assert_filter(("ruler", "marks"), key, values, found_by)
        # The check names filters that take no plain text.
        messages = [check.msg for check in checks.run_checks() if "E002" in check.id]
        for key in keys:
            self.assertIn(repr(key), " ".join(messages))
        self.serve(Ruler, list_filter=["span__isnull"])
        self.assertNotIn("span__isnull", str(checks.run_checks()))
        rulers = self.post("shop/ruler/list", {"span__isnull": True})["data"]
        self.assertEqual([ruler["marks"] for ruler in rulers], [[3]])

    def test_an_empty_text_for_any_parameter_is_not_asked(self):
        everything = "one two bare"
        keys = [*SpecimenEndpoint.list_filter, "tags", "search", "order_by"]
        keys += ["items_per_page", "current_page"]
        whole = dict.fromkeys(keys, "")
        for sent in [whole, *({key: ""} for key in keys)]:
            with self.subTest(sent=sent):
                self.assertEqual(self.words(sent), everything)
                self.assertEqual(self.words(sent, form=True), everything)
        self.assertEqual(self.words({"keepers[]": ""}, form=True), everything)
        self.assertEqual(self.words(whole | {"kind": "b"}, form=True), "two")
        # The key has to be known all the same.
        self.assertIn("Unknown", self.refuse("chra", ""))

    def test_a_lookup_of_text_takes_numbers_and_booleans_as_their_text(self):
        lookups = ["iexact", "icontains", "contains", "startswith", "iendswith"]
        names = [f"char__{lookup}" for lookup in lookups]
        self.serve(Specimen, list_filter=[*names, "integer__icontains"])
        for value in (1, 1.5, True, "true"):
            text = value if isinstance(value, str) else json.dumps(value)
            Specimen.objects.filter(words="one").update(char=text)
            for name in names:
                with self.subTest(name, value=value):
                    self.assertEqual(self.words({name: value}), "one")
        self.assertEqual(self.words({"integer__icontains": 5}), "two")

    def test_whether_json_contains_json_is_refused(self):
        self.serve(
            Specimen, list_filter=["json__key__contains", "json__key__icontains"]
        )
        for value in ("x", 1, True):
            self.refuse("json__key__contains", value)
        self.assertEqual(self.words({"json__key__icontains": "X"}), "one")

    def test_a_filter_compares_text_as_it_is(self):
        Specimen.objects.filter(words="one").update(char=" a ")
        for text, found in ((" a ", "one"), ("a", "")):
            self.assertEqual(self.words({"char": text}), found)


# --- Forms ----------------------------------------------------------------------------

from django.contrib.auth.forms import SetPasswordForm, UserChangeForm
from taggit.forms import TagField

OfferForm = forms.modelform_factory(Offer, fields="__all__")
SpecimenForm = forms.modelform_factory(Specimen, exclude=["url"])


class Stall(models.Model):
    code = models.SlugField(primary_key=True)
    opened = models.DateTimeField(null=True, blank=True)
    closed = models.DateTimeField(null=True, blank=True)
    is_active = models.BooleanField(default=True)
    objects = ActiveManager()
    everything = models.Manager()

    def clean(self):
        self.closed = self.closed and self.closed.replace(second=0)


class PollForm(forms.Form):
    day = forms.DateField()
    hours = forms.MultipleChoiceField(choices=[("am", "a"), ("pm", "p")])
    sure = forms.BooleanField(required=False)
    seats = forms.IntegerField(required=False)
    plan = forms.FileField(required=False)
    json = forms.JSONField(required=False)
    moment = forms.DateTimeField(required=False)
    article = forms.ModelChoiceField(Article.objects.all(), required=False)
    guests = forms.ModelMultipleChoiceField(User.objects.all(), required=False)


@ajax.register(OfferForm, SpecimenForm, PollForm)
class FormsEndpoint(ajax.FormEndpoint):
    pass


class StallForm(forms.ModelForm):
    # `fields` does not name it: the model's field is not written.
    opened = forms.DateTimeField(required=False)

    class Meta:
        model = Stall
        fields = ["code", "closed"]


ajax.endpoint.register(StallForm, FormsEndpoint)


class Parcel(models.Model):
    """Neither an endpoint nor an encoder describes it."""

    sender = models.ForeignKey(User, models.CASCADE, related_name="+")
    depot = models.ForeignKey(Stall, models.CASCADE, null=True, blank=True)
    label = models.CharField(max_length=20, blank=True)
    note = models.TextField(null=True, blank=True)
    weight = models.DecimalField(max_digits=17, decimal_places=2, null=True, blank=True)
    count = models.IntegerField(default=5, blank=True)
    data = models.JSONField(default=dict, blank=True)
    seal = models.BinaryField(editable=True, null=True, blank=True)
    secret = models.CharField(max_length=20, default="hidden")
    password = models.CharField(max_length=20, blank=True)
    stops = models.ManyToManyField(Country, blank=True)
    tags = TaggableManager(blank=True)


def split_at_commas(text):
    return [name.strip() for name in text.split(",") if name.strip()]


AS_FORM = {"form": True}


class JoiningInput(forms.TextInput):
    def value_from_datadict(self, data, files, name):
        return ",".join(data.getlist(name))


class RepeatedFileInput(forms.ClearableFileInput):
    allow_multiple_selected = True


class RepeatedFileField(forms.FileField):
    """A list of files, as Django's documentation makes one."""

    widget = RepeatedFileInput

    def clean(self, value, initial=None):
        return [super(RepeatedFileField, self).clean(item) for item in value or [None]]


SHARED_FIELD = forms.IntegerField(required=False)


class TwicePostedForm(forms.Form):
    """One whose fields are made in `__init__`, where it also chooses a value itself."""

    prefix = "p"
    shared = forms.IntegerField(required=False)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        choices = [("am", "a"), ("pm", "p")]
        self.fields["hours"] = forms.MultipleChoiceField(choices=choices)
        self.fields["json"] = forms.JSONField(required=False)
        self.fields["shared"] = SHARED_FIELD
        self.data = self.data.copy()
        self.data["p-owner"] = "ann"
        self.fields["owner"] = forms.CharField()


class Forms(AjaxTestCase):
    poll = {"day": "2024-05-06", "hours": ["am"]}

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        private = Supplier.objects.create(name="Private", is_private=True).pk
        bobs = Note.objects.create(owner=cls.other, text="secret").pk
        cls.offer = {"article": cls.article.pk, "supplier": private, "note": bobs}
        cls.offer["price"] = "2.50"

    def test_a_model_form_writes_as_in_django_and_overwrites_nothing(self):
        moment = "2024-05-06T07:08:09Z"
        data = {"code": "a", "opened": moment, "closed": moment}
        self.post("shop/stallform", data)
        stall = Stall.objects.get()
        self.assertEqual((stall.opened, stall.closed.second), (None, 0))
        Stall.everything.create(code="b", is_active=False)
        self.post("shop/stallform", {"code": "b"}, status=409)
        self.assertFalse(Stall.everything.get(code="b").is_active)

    @unittest.skipUnless(connection.vendor == "postgresql", "arrays and ranges")
    def test_date_times_in_arrays_and_ranges_are_within_the_calendar(self):
        from django.contrib.postgres.forms import DateTimeRangeField, SimpleArrayField

        several = SimpleArrayField(forms.DateTimeField(), required=False)
        span = DateTimeRangeField(required=False)
        fields = {"several": several, "span": span}
        self.serve(type("TimesForm", (forms.Form,), fields))
        for key, (sent, is_within) in itertools.product(("several", "span_1"), ENDS):
            with self.subTest(key, sent=sent):
                status = 200 if is_within else 400
                self.post("shop/timesform", {key: sent}, status, form=True)

    def test_a_form_may_have_any_number_of_values_where_django_has_no_limit(self):
        with self.settings(DATA_UPLOAD_MAX_NUMBER_FIELDS=None):
            self.post("shop/pollform", self.poll)

    def test_a_list_of_more_values_than_a_form_may_have_is_a_413(self):
        for name in ("hours", "guests"):
            self.post("shop/pollform", {name: [1] * 1001}, status=413)

    def test_a_model_form_answers_its_record_as_the_endpoint_shows_it(self):
        for form in (False, True):
            made = self.post("shop/offerform", self.offer, form=form)["data"]
            self.assertTrue(Offer.objects.filter(pk=made.pop("pk"), **self.offer))
            article = made["article"]
            self.assertEqual((article["title"], article.get("secret")), ("First", None))
            # Related records that the user may not get are shown as a pk.
            self.assertEqual(made, self.offer | {"article": article})

    def test_an_invalid_form_is_a_400_with_its_errors(self):
        with mock.patch.object(Offer, "clean", side_effect=ValidationError("No.")):
            errors = self.errors("shop/offerform", self.offer | {"price": "x"})
        self.assertEqual(errors.pop("__all__"), ["No."])
        self.assertEqual({*errors}, {"price"})

    def test_an_error_before_the_answer_undoes_the_save(self):
        for error, status in (
            (ValidationError({"price": "Too low."}), 400),
            (IntegrityError(), 409),
            (ajax.AJAXError(418, "No"), 418),
            (KeyError(), 500),
        ):
            save = mock.patch.object(OfferForm, "_save_m2m", side_effect=error)
            with self.subTest(repr(error)), save:
                reply = self.post("shop/offerform", self.offer, status=status)
                errors = {"price": ["Too low."]} if status == 400 else None
                self.assertEqual(reply.get("errors"), errors)
                self.assertFalse(Offer.objects.exists())
        self.register_encoder(Offer, Failing())
        self.post("shop/offerform", self.offer, status=500)
        self.assertFalse(Offer.objects.exists())

    def test_get_form_kwargs_may_give_an_instance_to_edit(self):
        def get_form_kwargs(self, request):
            mine = Offer.objects.filter(article__author=request.user)
            return {"instance": get_object_or_404(mine, pk=request.data["offer"])}

        made = self.post("shop/offerform", self.offer)["data"]
        self.serve(OfferForm, get_form_kwargs=get_form_kwargs)
        for price, user, status in (("2", self.user, 200), ("3", self.other, 404)):
            self.client.force_login(user)
            sent = self.offer | {"offer": made["pk"], "price": price}
            self.post("shop/offerform", sent, status=status)
            self.assertEqual(Offer.objects.get().price, 2)

    def test_a_form_gets_its_arguments_by_keyword_and_has_two_paths(self):
        """Django's own form, whose first argument is the user."""
        named = {"get_form_kwargs": lambda self, request: {"user": request.user}}
        self.serve(SetPasswordForm, **named)
        for label in ("auth", "shop"):
            sent = {"new_password1": label, "new_password2": label}
            reply = self.post(f"{label}/setpasswordform", sent)
            self.assertEqual(reply["data"], {"pk": self.user.pk, "username": "ann"})
            self.user.refresh_from_db()
            self.assertTrue(self.user.check_password(label))
            self.client.force_login(self.user)

    def test_a_form_without_save_answers_its_cleaned_data(self):
        rows = [  # what is sent, what is then clean; a JSON value is a browser's text
            ({"seats": "5"}, {"seats": 5}),
            ({"sure": False}, {"sure": False}),
            ({"seats": None, "day": "05/06/2024"}, {"seats": None}),
            ({"moment": "2024-05-06 07:08"}, {"moment": "2024-05-06T07:08:00Z"}),
            ({"guests": [""]}, {"guests": []}),
            ({"guests": [self.user.pk]}, {"guests": [self.user.pk]}),
            ({"article": str(self.article.pk)}, {"article": self.article.pk}),
            ({"json": {"a": [1, None]}}, {"json": {"a": [1, None]}}),
            ({"json": "text", "csrfmiddlewaretoken": "x"}, {"json": "text"}),
        ]
        for sent, clean in rows:
            with self.subTest(sent):
                data = self.post("shop/pollform", self.poll | sent)["data"]
                self.assertEqual(data, data | self.poll | clean)
        with mock.patch.object(PollForm, "clean", lambda self: {"seats": 1}):
            data = self.post("shop/pollform", self.poll)["data"]
        self.assertEqual(data, {"seats": 1})
        plan = {"plan": SimpleUploadedFile("p.txt", b"x"), "json": '{"a": [1]}'}
        data = self.post("shop/pollform", self.poll | plan, form=True)["data"]
        self.assertEqual(data, data | {"plan": "p.txt", "json": {"a": [1]}})

    def test_the_answer_is_what_save_returns(self):
        news = {"pk": self.news.pk, "title": "News", "parent": None}
        for saved, shown in (({"so": "be it"}, {"so": "be it"}), ([self.news], [news])):
            save = mock.Mock(return_value=saved)
            with mock.patch.object(PollForm, "save", save, create=True):
                self.assertEqual(self.post("shop/pollform", self.poll)["data"], shown)

    def test_values_that_no_form_field_takes_are_errors_of_their_keys(self):
        odd = (5, 1.5, True, {}, {"a": 1}, [[1]], [{}], [None], 10**400)
        rows = {
            "day": odd,
            "hours": odd,
            "seats": ("x", True, {"a": 1}),
            "article": (0, 2**64, "x", {"pk": "x"}),
            "guests": ([2**64], ["x"], 2**64),
        }
        for key, value in ((name, value) for name in rows for value in rows[name]):
            with self.subTest(key=key, value=str(value)[:20]):
                errors = self.errors("shop/pollform", self.poll | {key: value})
                self.assertEqual([*errors], [key])

    def test_files_are_saved_with_the_form(self):
        sent = {"file": SimpleUploadedFile("a.txt", b"words"), "words": "x"}
        data = self.post("shop/specimenform", sent, form=True)["data"]
        self.assertRegex(data["file"], r"^/media/specimens/a.*\.txt$")
        with Specimen.objects.get(pk=data["pk"]).file.open() as file:
            self.assertEqual(file.read(), b"words")

    def serve_form(self, attributes=(), **fields):
        """Serve a form of these fields as shop/oddform until the test ends."""
        form = type("OddForm", (forms.Form,), {"__module__": __name__, **fields})
        self.serve(form, **dict(attributes))
        return form

    def serve_parcels(self, *names, **attributes):
        """Serve a ModelForm of these fields as shop/parcelform until the test ends."""
        self.serve(forms.modelform_factory(Parcel, fields=names), **attributes)

    def serve_parcel(self, parcel, *names):
        """Let shop/parcelform edit one parcel."""
        self.doCleanups()
        self.serve_parcels(
            *names,
            get_form_kwargs=lambda self, request: {
                "instance": Parcel.objects.get(pk=parcel.pk)
            },
        )

    def test_a_list_or_a_repeated_key_for_one_value_is_a_400(self):
        at = forms.SplitDateTimeField(required=False)
        self.serve_form(at=at, photo=forms.FileField(required=False))
        day, pk = "2024-05-06", self.article.pk
        upload = SimpleUploadedFile("a.txt", b"a")
        message = ["This key takes one value."]
        for path_, key, sent, form in [
            ("pollform", "day", [day], {}),
            ("pollform", "day", [], {}),
            ("pollform", "day", [day, day], AS_FORM),
            ("pollform", "day[]", [day], AS_FORM),
            ("pollform", "seats", [1, 2], {}),
            ("pollform", "sure", ["on", "on"], AS_FORM),
            ("pollform", "article", [pk, pk], AS_FORM),
            ("pollform", "article", [pk], {}),
            ("contactform", "text", ["a", "b"], AS_FORM),
            ("oddform", "at_0", [day, day], AS_FORM),
            ("oddform", "photo", [upload, upload], AS_FORM),
        ]:
            with self.subTest(path_, key=key, sent=sent):
                data = self.poll | {"email": "a@example.com", "text": "Hi", key: sent}
                if key == "day[]":
                    del data["day"]
                name = re.sub(r"_0|\[\]", "", key)
                self.assertEqual(
                    self.errors(f"shop/{path_}", data, **form), {name: message}
                )

    def test_several_choices_are_a_list_however_it_is_sent(self):
        ann, bob = self.user.pk, self.other.pk
        for key, sent, form, clean in [
            ("hours", ["pm", "am"], {}, ["pm", "am"]),
            ("hours", "am", {}, ["am"]),
            ("hours", ["am", "pm"], AS_FORM, ["am", "pm"]),
            ("hours", "am", AS_FORM, ["am"]),
            ("hours[]", ["am"], AS_FORM, ["am"]),
            ("hours", '["am", "pm"]', AS_FORM, ["am", "pm"]),
            ("guests", [ann, {"pk": bob, "username": "bob"}], {}, [ann, bob]),
            ("guests", f"[{ann}, {bob}]", AS_FORM, [ann, bob]),
            ("guests[]", [ann, bob], AS_FORM, [ann, bob]),
            ("guests", "", AS_FORM, []),
            ("guests[]", "", AS_FORM, []),
            ("guests", "null", AS_FORM, []),
            ("guests", "", {}, []),
            ("guests", [], {}, []),
            ("guests", None, {}, []),
        ]:
            with self.subTest(key, sent=sent, form=form):
                data = self.poll | {key: sent}
                if key == "hours[]":
                    del data["hours"]
                cleaned = self.post("shop/pollform", data, **form)["data"]
                self.assertCountEqual(cleaned[key.removesuffix("[]")], clean)
        # MultipleHiddenInput reads a list, and a widget of the project's what it likes.
        hidden = forms.CharField(widget=forms.MultipleHiddenInput, required=False)
        day = forms.DateField(widget=forms.SelectDateWidget, required=False)
        self.serve_form(hidden=hidden, day=day)
        sent = {"hidden": ["a", "b"], "day": None, "day_year": 2024, "day_month": 5}
        cleaned = self.post("shop/oddform", sent | {"day_day": [6]})["data"]
        self.assertEqual(cleaned, {"hidden": "['a', 'b']", "day": "2024-05-06"})
        cleaned = self.post("shop/oddform", {"day": ["2024-05-06"]})["data"]
        self.assertEqual(cleaned, {"hidden": "", "day": "2024-05-06"})

    def test_more_members_than_a_relation_may_have_are_a_400(self):
        codes = [
            "".join(pair) for pair in itertools.product("abcdefghijklmn", repeat=2)
        ]
        Country.objects.bulk_create(Country(code=code, name=code) for code in codes)
        parcel = Parcel.objects.create(sender=self.user)
        parcel.stops.set(codes[:3])
        limits = mock.patch.object(ajax, "_MAX_MEMBERS", 5)
        for served, count, status in [(None, 5, 200), (None, 6, 400), (parcel, 8, 200)]:
            with self.subTest(count), limits:
                self.doCleanups()
                if served:
                    self.serve_parcel(served, "sender", "stops")
                else:
                    self.serve_parcels("sender", "stops")
                sent = {"sender": self.user.pk, "stops": codes[:count]}
                reply = self.post("shop/parcelform", sent, status)
                self.assertEqual([*reply.get("errors", [])], ["stops"][: status == 400])

    def test_tags_are_read_as_a_model_reads_them(self):
        self.serve_parcels("sender", "tags")
        plain = {"tags": {"pk": 1, "name": "z"}}
        for key, sent, form, names in [
            ("tags", ["web design", "css"], {}, ["web design", "css"]),
            ("tags", [" b ", "", "a", "b"], {}, ["b", "a"]),
            ("tags", [plain["tags"], "a,b"], {}, ["z", "a,b"]),
            ("tags", '["css", "web design"]', {}, ["css", "web design"]),
            ("tags", '["css", "web design"]', AS_FORM, ["css", "web design"]),
            ("tags", "b, web design", {}, ["b", "web design"]),
            ("tags", "b a", AS_FORM, ["a", "b"]),
            ("tags", '"a, b" c', AS_FORM, ["a, b", "c"]),
            ("tags[]", ["web design", "css"], AS_FORM, ["web design", "css"]),
            ("tags", ["web design", "css"], AS_FORM, ["web design", "css"]),
            ("tags[]", "", AS_FORM, []),
            ("tags", [], {}, []),
            ("tags", "", AS_FORM, []),
            ("tags", "null", AS_FORM, []),
            ("tags", None, {}, []),
            ("tags", "[a", AS_FORM, ["[a"]),
        ]:
            with self.subTest(key, sent=sent, form=form):
                sent = {"sender": self.user.pk, key: sent}
                data = self.post("shop/parcelform", sent, **form)["data"]
                tags = [tag["name"] for tag in data["tags"]]
                self.assertEqual(tags, names)

    def test_tags_in_a_form_of_no_model(self):
        self.serve_form(tags=TaggableManager().formfield())
        for sent, form, names in [
            (["web design", "css"], {}, ["web design", "css"]),
            ("web design, css", AS_FORM, ["css", "web design"]),
            (["x" * 101], {}, ["x" * 101]),
        ]:
            data = self.post("shop/oddform", {"tags": sent}, **form)["data"]
            self.assertEqual(data, {"tags": names})
        # A widget that reads several values gets them, and a column may be any.
        self.doCleanups()
        several = TagField(required=False, widget=JoiningInput)
        self.serve_form(tags=several)
        data = self.post("shop/oddform", {"tags": ["b", "a"]})["data"]
        self.assertEqual(data, {"tags": ["a", "b"]})
        attributes = {"note": TagField(), "__module__": __name__}
        attributes["Meta"] = type("Meta", (), {"model": Parcel, "fields": ["note"]})
        parcel = {"instance": Parcel(sender=self.user)}
        form = type("NoteForm", (forms.ModelForm,), attributes)
        self.serve(form, get_form_kwargs=lambda *arguments: parcel)
        data = self.post("shop/noteform", {"note": ["b", "a"]})["data"]
        self.assertEqual(data["note"], "['b', 'a']")
        with self.modify_settings(INSTALLED_APPS={"remove": "taggit"}):
            sent = {"email": "a@example.com", "text": "Hi"}
            self.assertEqual(self.post("shop/contactform", sent)["data"], sent)

    @unittest.skipUnless(connection.vendor == "postgresql", "arrays")
    def test_an_array_takes_a_list(self):
        from django.contrib.postgres.forms import SimpleArrayField

        numbers = SimpleArrayField(forms.IntegerField(), required=False)
        texts = SimpleArrayField(forms.CharField(), required=False)
        pairs = SimpleArrayField(SimpleArrayField(forms.CharField()), required=False)
        self.serve_form(numbers=numbers, texts=texts, pairs=pairs)
        for key, sent, form, stored in [
            ("numbers", [1, "2"], {}, [1, 2]),
            ("numbers", "1,2", {}, [1, 2]),
            ("numbers", 1, {}, [1]),
            ("numbers[]", ["1", "2"], AS_FORM, [1, 2]),
            ("numbers", ["1", "2"], AS_FORM, [1, 2]),
            ("texts", ["a,b", "c"], {}, ["a,b", "c"]),
            ("texts", [], {}, []),
            ("texts", None, {}, []),
            ("pairs", [["a,b", "c"], ["d", "e"]], {}, [["a,b", "c"], ["d", "e"]]),
        ]:
            with self.subTest(key, sent=sent):
                data = self.post("shop/oddform", {key: sent}, **form)["data"]
                self.assertEqual(data[key.removesuffix("[]")], stored)
        for key, sent in [("numbers", ["x"]), ("numbers", [True]), ("texts", [{}])]:
            self.assertEqual([*self.errors("shop/oddform", {key: sent})], [key])

    def test_tags_that_cannot_be_stored_are_a_400(self):
        tag_field = TaggableManager().formfield(required=False)
        self.serve_form(tags=tag_field)
        self.serve_parcels("sender", "tags")
        many = [str(number) for number in range(101)]
        quoted = ["Enter tags without double quotes."]
        too_many = ["Enter at most 100 tags."]
        too_long = ["Ensure this value has at most 100 characters (it has 101)."]
        for sent, form, is_of_model, messages in [
            (['a "b"', "c"], {}, False, quoted),
            (many, {}, False, too_many),
            (" ".join(many), AS_FORM, False, too_many),
            (["x" * 101], {}, True, too_long),
            ("x" * 101, AS_FORM, True, too_long),
            ("a " * 25_000 + "b c", AS_FORM, True, None),
            (
                " ".join(str(number) for number in range(10_000)),
                AS_FORM,
                False,
                too_many,
            ),
            (5, {}, False, ["Enter a valid value."]),
            ([5], {}, False, ["Enter a valid value."]),
            ({"name": "a"}, {}, False, ["Enter a valid value."]),
        ]:
            for path_ in ["parcelform"] if is_of_model else ["parcelform", "oddform"]:
                with self.subTest(path_, sent=str(sent)[:20]):
                    data = {"sender": self.user.pk, "tags": sent}
                    status = 200 if messages is None else 400
                    reply = self.post(f"shop/{path_}", data, status, **form)
                    errors = {"tags": messages} if messages else None
                    self.assertEqual(reply.get("errors"), errors)

    def test_tags_that_a_record_has_may_stay_beyond_the_limit(self):
        parcel = Parcel.objects.create(sender=self.user)
        names = [f"n{number:03}" for number in range(150)]
        parcel.tags.add(*names)
        self.serve_parcel(parcel, "tags")
        data = self.post("shop/parcelform", {"tags": ", ".join(names)})["data"]
        self.assertEqual(len(data["tags"]), 150)
        self.errors("shop/parcelform", {"tags": [f"new{n}" for n in range(101)]})
        self.assertEqual(parcel.tags.count(), 150)

    def test_a_project_that_parses_tags_in_its_own_way_keeps_them(self):
        self.serve_parcels("sender", "tags")
        splitter = f"{__name__}.split_at_commas"
        with self.settings(TAGGIT_TAGS_FROM_STRING=splitter):
            for tags in (["web design", "css"], ['a "b"']):
                sent = {"sender": self.user.pk, "tags": tags}
                data = self.post("shop/parcelform", sent)["data"]
                self.assertEqual([tag["name"] for tag in data["tags"]], tags)
            self.errors("shop/parcelform", {"sender": self.user.pk, "tags": ["a,b"]})

    def test_a_record_that_nothing_describes_shows_its_pk_and_the_forms_fields(self):
        depot = Stall.objects.create(code="a")
        names = ["depot", "label", "sender", "password", "stops", "tags"]
        self.serve_parcels(*names)
        sent = {"sender": self.user.pk, "depot": "a", "label": "L", "password": "pw"}
        data = self.post("shop/parcelform", sent | {"tags": ["x"]})["data"]
        parcel = Parcel.objects.get()
        [tag] = data.pop("tags")
        self.assertEqual(tag["name"], "x")
        shown = {"pk": parcel.pk, "sender": self.user.pk, "depot": depot.pk}
        self.assertEqual(data, shown | {"label": "L", "stops": []})
        self.assertEqual([*data], ["pk", "sender", "depot", "label", "stops"])
        # An endpoint or an encoder says what is shown.
        self.serve(Parcel, fields=["label", "secret"])
        data = self.post("shop/parcelform", sent)["data"]
        self.assertEqual({*data}, {"pk", "label", "secret"})
        self.doCleanups()
        self.serve_parcels("sender", "label")
        self.register_encoder(Parcel, ajax.IncludeEncoder(["secret"]))
        data = self.post("shop/parcelform", sent)["data"]
        self.assertEqual({*data}, {"pk", "secret"})

    def test_a_record_whose_child_has_an_endpoint_is_shown_as_its_pk(self):
        registered = ajax.endpoint._registry[Track]
        ajax.endpoint.unregister(Track)
        self.addCleanup(ajax.endpoint.register, Track, registered)
        self.serve(forms.modelform_factory(Track, fields=["title"]))
        data = self.post("shop/trackform", {"title": "A"})["data"]
        self.assertEqual(data, {"pk": Track.objects.get().pk})

    def test_records_that_save_returns_are_shown_wherever_they_are(self):
        parcel = Parcel.objects.create(sender=self.user, label="L", count=2**31 - 1)
        bob = {"pk": self.other.pk, "username": "bob"}
        news = {"pk": self.news.pk, "title": "News", "parent": None}
        small = {"pk": parcel.pk, "sender": self.user.pk, "label": "L"}
        save = mock.Mock()
        names = ("label", "sender", "username", "email")
        fields = {name: forms.CharField(required=False) for name in names}
        self.serve_form(**fields, save=save)
        for saved, shown in [
            (self.news, news),
            (self.other, bob),
            (parcel, small),
            ([parcel, self.other], [small, bob]),
            (Parcel.objects.all(), [small]),
            ({"one": parcel, "all": [[parcel]]}, {"one": small, "all": [[small]]}),
            (None, None),
            ("text", "text"),
        ]:
            for result in (saved, ajax.EnvelopedResponse(saved, {"total": 1})):
                with self.subTest(str(saved), kind=type(result)):
                    save.return_value = result
                    self.assertEqual(self.post("shop/oddform")["data"], shown)

    def test_a_saved_response_or_error_is_passed_on(self):
        self.serve_form(save=lambda self: HttpResponse("<b>", status=201))
        response = self.client.post("/ajax/shop/oddform.json")
        self.assertEqual((response.status_code, response.content), (201, b"<b>"))
        self.doCleanups()
        self.serve_form(save=lambda self: ajax.AJAXError(418, "No."))
        self.post("shop/oddform", status=418)
        self.doCleanups()
        # An endpoint may not make the form at all.
        create = {"create": lambda self, request: Parcel(pk=7, sender=request.user)}
        self.serve_form(create, sender=forms.CharField())
        data = self.post("shop/oddform")["data"]
        self.assertEqual(data, {"pk": 7, "sender": self.user.pk})

    def test_records_in_the_cleaned_data_are_pks_wherever_they_come_from(self):
        class RecordField(forms.Field):
            def clean(self, value):
                return User.objects.get(username=value)

        def clean(form):
            form.cleaned_data["one"] = Country.objects.get()
            form.cleaned_data["all"] = User.objects.order_by("pk")
            form.cleaned_data["deep"] = {"in": [(Article.objects.get(),)]}

        Country.objects.create(code="fr", name="France")
        by_name = forms.ModelChoiceField(Country.objects, to_field_name="name")
        self.serve_form(who=RecordField(), land=by_name, clean=clean)
        data = self.post("shop/oddform", {"who": "bob", "land": "France"})["data"]
        everybody = [self.user.pk, self.other.pk]
        expected = {"who": self.other.pk, "land": "fr", "one": "fr", "all": everybody}
        self.assertEqual(data, expected | {"deep": {"in": [[self.article.pk]]}})

    def test_a_jsonfields_value_is_given_as_it_is(self):
        value = {"big": 2**60, "float": 1.5, "text": "", "list": [2**53]}
        for sent in (value, [], "", "text", 2**60, True):
            with self.subTest(sent=sent):
                data = self.post("shop/pollform", self.poll | {"json": sent})["data"]
                self.assertEqual(data["json"], sent)

    def test_a_record_that_was_read_is_taken_as_its_key(self):
        Country.objects.create(code="fr", name="France")
        by_name = forms.ModelChoiceField(Country.objects, to_field_name="name")
        by_code = forms.ModelChoiceField(Country.objects, to_field_name="code")
        to_pk = forms.ModelChoiceField(Country.objects)
        self.serve_form(land=by_name, to_pk=to_pk, to_code=by_code)
        france = self.shown(Country(pk="fr"))
        sent = dict.fromkeys(["land", "to_pk", "to_code"], france)
        data = self.post("shop/oddform", sent)["data"]
        self.assertEqual(data, dict.fromkeys(sent, "fr"))
        refusal = "Select a valid choice. That choice is not one of the available"
        for key, sent in [("land", {"pk": "fr"}), ("to_pk", {}), ("to_pk", {"pk": {}})]:
            with self.subTest(key, sent=sent):
                data = dict.fromkeys(["land", "to_pk", "to_code"], france)
                errors = self.errors("shop/oddform", data | {key: sent})
                self.assertEqual(errors, {key: [f"{refusal} choices."]})

    def test_null_is_an_empty_value_and_null_in_a_column(self):
        rows = [
            ("seats", None),
            ("sure", False),
            ("json", None),
            ("moment", None),
            ("article", None),
            ("plan", None),
        ]
        for key, clean in rows:
            for sent, form in [(None, {}), ("null", AS_FORM)]:
                with self.subTest(key, form=form):
                    data = self.poll | {key: sent}
                    data = self.post("shop/pollform", data, **form)["data"]
                    is_clear = key == "plan" and data[key] is False
                    self.assertTrue(is_clear or data[key] == clean, data)
        for sent, form in [(None, {}), ("null", AS_FORM)]:
            required = ["This field is required."]
            errors = self.errors("shop/pollform", self.poll | {"day": sent}, **form)
            self.assertEqual(errors, {"day": required})
        texts = {
            "text": forms.CharField(required=False),
            "land": forms.ModelChoiceField(Country.objects, required=False),
            "choice": forms.ChoiceField(choices=[("null", "N")], required=False),
            "uuid": forms.UUIDField(required=False),
        }
        self.serve_form(**texts)
        sent = dict.fromkeys(texts, "null")
        data = self.post("shop/oddform", sent, form=True)["data"]
        self.assertEqual(data, sent | {"uuid": None, "land": None})

    def test_null_and_the_empty_text_in_the_columns_of_a_model_form(self):
        names = ["label", "note", "weight", "count", "data", "seal", "depot"]
        null = ["This field cannot be null."]
        stored = {"note": "N", "weight": Decimal(1), "count": 7, "data": {"a": 1}}
        stored |= {"label": "L", "seal": b"a", "depot": Stall.objects.create(code="a")}
        for key, null_value, empty_value in [
            ("label", "", ""),
            ("note", None, ""),
            ("weight", None, None),
            ("seal", None, None),
            ("depot", None, None),
            ("count", null, 7),
            ("data", null, {"a": 1}),
        ]:
            for sent, form, value in [
                (None, {}, null_value),
                ("null", AS_FORM, null_value),
                ("", AS_FORM, empty_value),
            ]:
                if sent == "null" and key in ("label", "note"):
                    value = "null"
                parcel = Parcel.objects.create(sender=self.user, **stored)
                self.serve_parcel(parcel, *names)
                with self.subTest(key, sent=sent, form=form):
                    if value is null:
                        errors = self.errors("shop/parcelform", {key: sent}, **form)
                        self.assertEqual(errors, {key: null})
                    else:
                        self.post("shop/parcelform", {key: sent}, **form)
                        parcel.refresh_from_db()
                        self.assertEqual(getattr(parcel, key), value)

    def test_booleans_take_the_same_texts_as_a_model(self):
        state = forms.NullBooleanField(required=False)
        hidden = forms.BooleanField(widget=forms.HiddenInput, required=False)
        tick = forms.BooleanField(required=False)
        to_bool = {"True": True, "False": False}.get
        yes_no = [("", "?"), (True, "Yes"), (False, "No")]
        lower = [("true", "Yes"), ("false", "No")]
        choice = forms.TypedChoiceField(choices=yes_no, coerce=to_bool, required=False)
        lower = forms.ChoiceField(choices=lower, required=False)
        self.serve_form(
            tick=tick, state=state, hidden=hidden, choice=choice, lower=lower
        )
        true = [True, 1, "true", "TRUE", "on", "On", "1", "t"]
        false = [False, 0, "false", "False", "off", "OFF", "0", "f"]
        for sent in [*true, *false]:
            for form in ({}, AS_FORM) if isinstance(sent, str) else ({},):
                with self.subTest(sent=sent, form=form):
                    values = dict.fromkeys(("tick", "state", "hidden"), sent)
                    data = self.post("shop/oddform", values, **form)["data"]
                    expected = dict.fromkeys(values, sent in true)
                    self.assertEqual(data, data | expected)
        for sent in (True, False):
            values = {"choice": sent, "lower": sent}
            data = self.post("shop/oddform", values)["data"]
            self.assertIs(data["choice"], sent)
            self.assertEqual(data["lower"], json.dumps(sent))
        # In a form, a checkbox may have a text of its own.
        sent = {"tick": "yes", "state": "unknown", "hidden": " "}
        data = self.post("shop/oddform", sent, form=True)["data"]
        kept = {"tick": True, "state": None, "hidden": False}
        self.assertEqual(data, data | kept)
        odd = [("state", "maybe"), ("state", 7), ("tick", {}), ("tick", 2)]
        for key, sent in [*odd, ("tick", "yes"), ("tick", "unknown")]:
            self.assertEqual([*self.errors("shop/oddform", {key: sent})], [key])

    def test_text_is_stripped_unless_the_spaces_may_be_meant(self):
        chars = [(" a", "A")]
        self.serve_form(
            raw=forms.CharField(strip=False, required=False),
            text=forms.CharField(required=False),
            number=forms.FloatField(required=False),
            lasts=forms.DurationField(required=False),
            json=forms.JSONField(required=False),
            choice=forms.ChoiceField(choices=chars, required=False),
            tick=forms.BooleanField(required=False),
        )
        rows = [
            (" a", {"raw": " a", "text": "a", "choice": " a"}),
            (" 1 ", {"number": 1.0, "lasts": "P0DT00H00M01S", "tick": True}),
            (" \n", {"number": None, "lasts": None, "tick": False, "text": ""}),
        ]
        for text, clean in rows:
            for form in ({}, AS_FORM):
                with self.subTest(text, form=form):
                    sent = dict.fromkeys(clean, text)
                    data = self.post("shop/oddform", sent, **form)["data"]
                    self.assertEqual(data, data | clean)
        for text, clean in [(" ", None), (" [1] ", [1])]:
            data = self.post("shop/oddform", {"json": text}, form=True)["data"]
            self.assertEqual(data["json"], clean)

    def test_what_a_field_cannot_read_is_told_in_djangos_words(self):
        class JSONTextField(forms.CharField):
            """One of the project's."""

        self.serve_form(
            text=forms.CharField(required=False),
            own=JSONTextField(required=False),
            number=forms.IntegerField(required=False),
            date=forms.DateTimeField(required=False),
            json=forms.JSONField(required=False),
            choice=forms.ChoiceField(choices=[("a", "A")], required=False),
            file=forms.FileField(required=False),
        )
        upload = SimpleUploadedFile("a.txt", b"a")
        unreadable = "Enter a valid value."
        no_choice = "Select a valid choice. {} is not one of the available choices."
        for key, sent, form, message in [
            ("text", True, {}, unreadable),
            ("text", {"a": 1}, {}, unreadable),
            ("text", upload, AS_FORM, unreadable),
            ("number", True, {}, "Enter a whole number."),
            ("number", {}, {}, "Enter a whole number."),
            ("number", upload, AS_FORM, "Enter a whole number."),
            ("date", "0001-01-01T00:00Z", {}, "Enter a valid date/time."),
            ("json", "{", AS_FORM, "Enter a valid JSON."),
            ("json", '{"a": 1, "a": 2}', AS_FORM, "Enter a valid JSON."),
            ("choice", {"a": 1}, {}, no_choice.format('{"a":1}')),
            ("choice", True, {}, no_choice.format("True")),
            ("file", {}, {}, "No file was submitted. Check the encoding type on the"),
            ("file", 5, {}, "No file was submitted. Check the encoding type on the"),
        ]:
            with self.subTest(key, sent=str(sent)[:20]):
                [text] = self.errors("shop/oddform", {key: sent}, **form)[key]
                self.assertTrue(text.startswith(message), text)
        # A field of the project's own may read JSON.
        data = self.post("shop/oddform", {"own": {"a": 1}, "text": 1.5})["data"]
        self.assertEqual((data["own"], data["text"]), ('{"a":1}', "1.5"))

    def test_numbers_are_sent_as_a_localized_field_reads_them(self):
        number = forms.DecimalField(localize=True)
        self.serve_form(number=number, plain=forms.DecimalField())
        german = {"LANGUAGE_CODE": "de", "USE_THOUSAND_SEPARATOR": True}
        with self.settings(**german), translation.override("de"):
            for sent in (1.125, 1125, 1234567.5, -0.001):
                values = {"number": sent, "plain": sent}
                data = self.post("shop/oddform", values)["data"]
                self.assertEqual([float(data[key]) for key in values], [sent, sent])
            data = self.post("shop/oddform", {"number": "1.125,5", "plain": "1"})
            self.assertEqual(data["data"]["number"], "1125.5")

    def test_binary_is_base64(self):
        self.serve_parcels("sender", "seal")
        for sent, form, stored in [
            ("aGk=", {}, b"hi"),
            ("aGk=", AS_FORM, b"hi"),
            ("", {}, None),
            ("aG\nk=\n", {}, b"hi"),
            ("aG\r\n  k=", AS_FORM, b"hi"),
            ("aGk", {}, "seal"),
            ("a!Gk=", {}, "seal"),
            ("a!Gk=", AS_FORM, "seal"),
            ("aG k=", AS_FORM, "seal"),
            ("aGk=*", {}, "seal"),
            ("\u00e9", AS_FORM, "seal"),
            (True, {}, "seal"),
        ]:
            with self.subTest(sent=sent, form=form):
                data = {"sender": self.user.pk, "seal": sent}
                status = 400 if isinstance(stored, str) else 200
                reply = self.post("shop/parcelform", data, status, **form)
                if status == 400:
                    self.assertEqual([*reply["errors"]], ["seal"])
                else:
                    seal = Parcel.objects.get(pk=reply["data"]["pk"]).seal
                    self.assertEqual(seal and bytes(seal), stored)

    def test_decimals_that_could_not_be_read_back_are_a_400(self):
        self.serve_parcels("sender", "weight")
        is_sqlite = connection.vendor == "sqlite"
        for sent, fits in [
            ("1234567890123.45", True),
            ("123456789012345.00", True),
            ("100000000000000", True),
            ("99999999999999.99", not is_sqlite),
            ("999999999999999.9", not is_sqlite),
        ]:
            for form in ({}, AS_FORM):
                with self.subTest(sent, form=form):
                    data = {"sender": self.user.pk, "weight": sent}
                    if fits:
                        pk = self.post("shop/parcelform", data, **form)["data"]["pk"]
                        weight = Parcel.objects.get(pk=pk).weight
                        self.assertEqual(weight, Decimal(sent))
                    else:
                        errors = self.errors("shop/parcelform", data, **form)
                        message = (
                            "Ensure that there are no more than 15 digits in total."
                        )
                        self.assertEqual(errors, {"weight": [message]})

    def test_prefixed_forms_and_fields_made_in_init_are_read_and_named_as_sent(self):
        self.serve(TwicePostedForm)
        for sent, form in [
            ({"p-hours": ["am"], "p-json": {"a": [1]}}, {}),
            ({"p-hours[]": ["am"], "p-json": '{"a": [1]}'}, AS_FORM),
        ]:
            data = self.post("shop/twicepostedform", sent, **form)["data"]
            expected = {"hours": ["am"], "json": {"a": [1]}, "owner": "ann"}
            self.assertEqual(data, expected | {"shared": None})
        required = {"p-hours": ["This field is required."]}
        none = {"p-hours": [""]}
        for sent, form in [({"hours": ["am"]}, {}), (none, {}), (none, AS_FORM)]:
            errors = self.errors("shop/twicepostedform", sent, **form)
            self.assertEqual(errors, required)
        errors = self.errors(
            "shop/twicepostedform", {"p-hours": ["x"], "p-shared": [1]}
        )
        self.assertEqual({*errors}, {"p-hours", "p-shared"})
        # The value that the form chose stays, whatever is sent in its place.
        for owner in ("bob", ["bob"], None):
            sent = {"p-hours": ["am"], "p-owner": owner}
            data = self.post("shop/twicepostedform", sent)["data"]
            self.assertEqual(data["owner"], "ann")

    def test_a_field_that_forms_share_is_cleaned_once(self):
        self.serve(TwicePostedForm)
        sent = {"p-hours": ["am"], "p-shared": 3}
        with mock.patch.object(SHARED_FIELD, "to_python", return_value=4) as cleaned:
            for _turn in range(3):
                data = self.post("shop/twicepostedform", sent)["data"]
                self.assertEqual(data["shared"], 4)
        self.assertEqual(cleaned.call_count, 3)

    def test_nan_that_a_form_puts_into_json_is_null(self):
        form = self.serve_form(json=forms.JSONField(required=False))
        form.clean = lambda self: {
            "json": {"a": [float("nan"), 2**60]},
            "number": float("inf"),
        }
        data = self.post("shop/oddform")["data"]
        self.assertEqual(data, {"json": {"a": [None, 2**60]}, "number": None})

    def test_errors_that_save_raises_are_named_as_sent(self):
        for error, errors in [
            (ValidationError({"text": "Bad.", "x": "Odd."}), {"text", "x"}),
            (ValidationError("All bad."), {"__all__"}),
        ]:
            for prefix in ("", "p"):
                save = mock.Mock(side_effect=error)
                self.doCleanups()
                text = forms.CharField(required=False)
                self.serve_form(text=text, save=save, prefix=prefix)
                found = self.errors("shop/oddform")
                names = {
                    f"p-{name}" if prefix and name == "text" else name
                    for name in errors
                }
                self.assertEqual({*found}, names)

    def test_get_form_kwargs_may_give_initial_prefix_data_and_files(self):
        def get_form_kwargs(self, request):
            return {key: value for key, value in kwargs.items() if value is not None}

        self.serve_form({"get_form_kwargs": get_form_kwargs}, file=forms.FileField(),
            text=forms.CharField(required=False, disabled=True),
            tags=forms.MultipleChoiceField(choices=[("a", "A")], required=False),
        )  # fmt: skip

        def upload():
            return SimpleUploadedFile("a.txt", b"a")

        sent = {"text": ["x"], "file": upload(), "tags": "a"}
        kwargs = {"initial": {"text": "T"}}
        data = self.post("shop/oddform", sent, form=True)["data"]
        self.assertEqual(data, {"file": "a.txt", "text": "T", "tags": ["a"]})
        kwargs = {"prefix": "p"}
        sent = {"p-file": upload(), "p-tags": ["b"]}
        errors = self.errors("shop/oddform", sent, form=True)
        self.assertEqual({*errors}, {"p-tags"})
        kwargs = {"data": {"tags": ["a"]}, "files": {"file": upload()}}
        data = self.post("shop/oddform", {"tags": 5, "file": 5})["data"]
        self.assertEqual(data, {"file": "a.txt", "text": "", "tags": ["a"]})
        # A form that is given no data is not valid.
        kwargs = {"data": http.QueryDict("tags=b"), "files": {"file": upload()}}
        self.assertEqual({*self.errors("shop/oddform", {"tags": ["a"]})}, {"tags"})

    def test_a_form_may_replace_its_data(self):
        def __init__(form, data, **kwargs):
            forms.Form.__init__(form, {"day": "2024-05-06"}, **kwargs)

        self.serve_form(day=forms.DateField(), __init__=__init__)
        data = self.post("shop/oddform", {"day": ["x"] * 2000})["data"]
        self.assertEqual(data, {"day": "2024-05-06"})

    def test_files_are_read_by_key_and_null_clears_one(self):
        file = forms.FileField(required=False)
        field = forms.FileField(widget=RepeatedFileInput, required=False)
        own = forms.Field(widget=forms.FileInput, required=False)
        field.clean = lambda value, initial=None: [item.name for item in value]
        base = {"file": file, "own": own, "needed": forms.FileField()}
        self.serve_form(**base, several=field)

        def upload(name="a.txt"):
            return SimpleUploadedFile(name, b"a")

        for key, sent, clean in [
            ("file", upload(), "a.txt"),
            ("own", upload(), "a.txt"),
            ("file", "/media/a.txt", None),
            ("file", "", None),
            ("file", "null", False),
            ("own", "null", None),
            ("several[]", [upload(), upload("b.txt")], ["a.txt", "b.txt"]),
            ("several", [upload(), upload("b.txt")], ["a.txt", "b.txt"]),
            ("several[]", [upload()], ["a.txt"]),
        ]:
            with self.subTest(key, sent=str(sent)):
                sent = {key: sent, "needed": upload()}
                data = self.post("shop/oddform", sent, form=True)["data"]
                self.assertEqual(data[key.removesuffix("[]")], clean)
        required = {"needed": ["This field is required."]}
        self.assertEqual(self.errors("shop/oddform", {"needed": None}), required)

    def test_null_clears_the_file_of_an_instance(self):
        specimen = Specimen.objects.create(file=SimpleUploadedFile("a.txt", b"a"))
        kwargs = {"get_form_kwargs": lambda *_: {"instance": Specimen.objects.get()}}
        ajax.endpoint.unregister(SpecimenForm)
        self.addCleanup(ajax.endpoint.register, SpecimenForm, FormsEndpoint)
        self.serve(forms.modelform_factory(Specimen, fields=["file", "char"]), **kwargs)
        for sent, form in [({}, {}), ({"file": "x"}, {}), ({"file": None}, {})]:
            self.post("shop/specimenform", sent, **form)
            specimen.refresh_from_db()
            self.assertEqual(bool(specimen.file), sent != {"file": None})

    def test_an_instance_that_is_gone_is_a_404(self):
        parcel = Parcel.objects.create(sender=self.user)
        Parcel.objects.filter(pk=parcel.pk).delete()
        gone = Parcel(pk=parcel.pk, sender=self.user)
        gone._state.adding = False
        self.serve_parcels("label", get_form_kwargs=lambda *_: {"instance": gone})
        reply = self.post("shop/parcelform", {"label": "L"}, status=404)
        message = f'Parcel with id of "{parcel.pk}" not found.'
        self.assertEqual(reply["data"]["message"], message)
        self.assertFalse(Parcel.objects.exists())
        # It was there, but the second time it is not the user's any more.
        self.doCleanups()
        stored = Parcel.objects.create(sender=self.user)
        answers = iter([{"instance": stored}, {}])
        self.serve_parcels("label", get_form_kwargs=lambda *_: next(answers))
        self.post("shop/parcelform", {"label": "L"}, status=404)
        self.assertEqual(Parcel.objects.get().label, "")

    def test_a_model_form_of_a_new_instance_is_not_locked(self):
        calls = []

        def get_form_kwargs(self, request):
            calls.append(request)
            return {"instance": Parcel(sender=request.user, count=3)}

        self.serve_parcels("label", get_form_kwargs=get_form_kwargs)
        data = self.post("shop/parcelform", {"label": "L"})["data"]
        parcel = Parcel.objects.get()
        self.assertEqual(data, {"pk": parcel.pk, "label": "L"})
        self.assertEqual((parcel.sender, parcel.count, len(calls)), (self.user, 3, 1))

    def test_more_keys_than_a_form_may_have_are_a_413_before_they_are_read(self):
        contact = {"email": "a@example.com", "text": "a"}
        for count, status in ((998, 200), (999, 413)):
            with self.subTest(count):
                others = {f"key{number}": None for number in range(count)}
                self.post("shop/contactform", contact | others, status=status)


# --- Encoding -------------------------------------------------------------------------

from django.contrib.contenttypes.fields import GenericForeignKey
from django.core.files.storage import Storage
from django.db.models.signals import post_init


class MoodItem(taggit.TaggedItemBase):
    content_object = models.ForeignKey("shop.Track", models.CASCADE)


class Track(models.Model):
    title = models.CharField(max_length=100)
    pressing = foreign_key("shop.Pressing")
    guests = models.ManyToManyField(User, blank=True)
    tags = TaggableManager(blank=True)
    moods = TaggableManager(through=MoodItem, blank=True, related_name="mood_tracks")


class LiveTrack(Track):
    venue = models.CharField(max_length=100, blank=True)

    def __len__(self):
        return 0  # A record may be false.


class AwakeManager(models.Manager):
    """Hides rows in `all`, and not in `get_queryset`."""

    def all(self):
        return super().all().filter(is_active=True)


Producer, Sponsor = [
    make_model(name, is_active=models.BooleanField(default=True), objects=manager)
    for name, manager in [("Producer", ActiveManager()), ("Sponsor", AwakeManager())]
]
ajax.endpoint.register([Track, LiveTrack, Producer, Sponsor], OpenEndpoint)

Vehicle = make_model("Vehicle", owner=foreign_key(User))


class Truck(Vehicle):
    pass


class Van(Vehicle):
    class Meta:
        proxy = True


class Trip(models.Model):
    vehicle = foreign_key(Vehicle)
    truck = foreign_key(Truck)
    van = foreign_key(Van)
    trucks = models.ManyToManyField(Truck, related_name="+")


class Pressing(models.Model):
    """Relations to the pk and to other fields, with a constraint and without."""

    loose = {"on_delete": models.DO_NOTHING, "db_constraint": False}

    article = models.ForeignKey(Article, **loose)
    depot = models.ForeignKey(Category, null=True, **loose)
    maker = models.ForeignKey(Country, to_field="name", related_name="+", **loose)
    origin = foreign_key(Country, to_field="name")
    producer = foreign_key(Producer)
    sponsor = foreign_key(Sponsor)
    live = foreign_key(LiveTrack)
    markets = models.ManyToManyField(Country, through="shop.Market")


class Market(models.Model):
    pressing = foreign_key(Pressing)
    country = foreign_key(Country, to_field="name")


class Royalty(models.Model):
    """One for each country, with a share that the database fills in."""

    country = models.OneToOneField(Country, models.CASCADE, primary_key=True)
    share = models.IntegerField(db_default=7)


PLACES = [make_model("Planet")]
for _name in ("Continent", "Nation", "County", "Town", "Venue", "Stage"):
    PLACES.append(make_model(_name, within=foreign_key(PLACES[-1])))
# More foreign keys than a database joins, in two tables: MariaDB has 64 keys for each.
CHANNELS = [f"channel_{number}" for number in range(70)]


def make_mixer(name, **options):
    keys = [(channel, foreign_key(Country, **options)) for channel in CHANNELS]
    half = make_model(f"Half{name}", **dict(keys[:35]))
    return make_model(name, half, **dict(keys[35:]))


Mixer, Patch = make_mixer("Mixer"), make_mixer("Patch", to_field="name")
# Each of these models refers to all others.
WEB = [
    make_model(f"Web{one}", **{f"to_{n}": foreign_key(f"shop.Web{n}") for n in rest})
    for one, rest in [(one, "abcdefg".replace(one, "")) for one in "abcdefg"]
]
ajax.endpoint.register([Pressing, Royalty, Trip, *PLACES, Mixer, Patch, WEB[0]])


class Tell(ajax.DefaultEncoder):
    def to_dict(self, record, **options):
        data = super().to_dict(record, **options)
        return data | {"parent": "secret", "at": datetime.date(2024, 1, 2), "is": "<"}


class Band(models.Model):
    members = models.ManyToManyField(User, through="BandMember")


class BandMember(models.Model):
    band = models.ForeignKey(Band, models.CASCADE)
    user = models.ForeignKey(User, models.CASCADE, null=True)


ajax.endpoint.register(Band)

# The key is no sequence: later keys would follow one that is this large.
Comet = make_model("Comet", number=models.BigIntegerField(primary_key=True))
Tail = make_model("Tail", comet=foreign_key(Comet))
ajax.endpoint.register([Comet, Tail])

KNOTS = []  # Each of these models refers to all of them.
for _name in (f"Knot{number}" for number in range(6)):
    keys = {f"to_{n}": foreign_key(f"shop.Knot{n}") for n in range(6)}
    KNOTS.append(make_model(_name, **keys))


class Label(models.Model):
    kind = models.ForeignKey(ContentType, models.CASCADE, null=True)
    key = models.CharField(max_length=20, null=True)
    target = GenericForeignKey("kind", "key")


class Number:
    """A value of a class that JSON does not know."""

    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


class NumberField(models.CharField):
    def from_db_value(self, value, expression, connection):
        return Number(value)


class Scan(models.fields.files.FieldFile):
    """A file whose address depends on the record that it is of."""

    @property
    def url(self):
        return f"/scans/of/{self.instance.number}"


class ScanField(models.FileField):
    attr_class = Scan


class Phone(models.Model):
    number = NumberField(max_length=20)
    scan = ScanField(default="scan.png")


class PhoneCall(models.Model):
    phone = models.ForeignKey(Phone, models.CASCADE)


ajax.endpoint.register([Phone, PhoneCall], OpenEndpoint)


@ajax.register(Label)
class LabelEndpoint(OpenEndpoint):
    fields = ["target"]


class Encoding(AjaxTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.germany = Country.objects.create(code="de", name="Germany")
        cls.note = Note.objects.create(owner=cls.user, text="n", article=cls.article)
        cls.supplier = Supplier.objects.create(name="S")
        related = {"article": cls.article, "supplier": cls.supplier, "note": cls.note}
        cls.offer = Offer.objects.create(**related)

    def assert_shown(self, record, **expected):
        """Compare some of the values that are shown, of the row and of the instance."""
        fresh = type(record)._base_manager.get(pk=record.pk)
        for data in (self.shown(record), ajax.encoder.encode(fresh)):
            self.assertEqual(data, data | expected)

    def press(self, **keys):
        fine = {"article_id": self.article.pk, "maker_id": "Germany"}
        return Pressing.objects.create(**fine | keys)

    def test_an_encoder_called_by_an_encoder_gives_its_usual_result(self):
        class Outer(ajax.HTMLEscapeEncoder):
            def to_dict(self, record):
                inner = ajax.ExcludeEncoder(exclude=["title"]).to_dict(record)
                return {**super().to_dict(record), "inner": [*inner], "more": "<b>"}

        self.register_encoder(Category, Outer)
        Category.objects.update(title="<i>")
        shown = {"pk": self.news.pk, "title": "&lt;i&gt;", "parent": None}
        shown |= {"inner": ["pk", "parent"], "more": "&lt;b&gt;"}
        self.assertEqual(self.shown(self.news), shown)
        self.news.refresh_from_db()
        by_itself = ajax.HTMLEscapeEncoder().to_dict(self.news)
        self.assertEqual(by_itself["title"], "&lt;i&gt;")

    def test_a_null_key_in_a_through_table_is_left_out(self):
        band = Band.objects.create()
        band.members.add(self.user)
        BandMember.objects.create(band=band)
        BandMember.objects.create(band=band)
        self.assertEqual(self.shown(band)["members"], [self.user.pk])

    def test_six_models_that_refer_to_each_other_are_expanded_up_to_the_limit(self):
        for model in KNOTS:
            model.objects.create(pk=1)
        for model in KNOTS:
            model.objects.update(**{f"to_{number}": 1 for number in range(6)})
        self.serve(KNOTS[0])
        text = json.dumps(self.shown(KNOTS[0].objects.get()))
        self.assertEqual(text.count("{"), 1 + 100)

    def test_a_record_is_its_pk_then_its_fields_in_model_order(self):
        self.article.readers.add(self.other)
        self.article.tags.set(["red"])
        tag = Tag.objects.get(name="red")
        shown = {
            "pk": self.article.pk,
            "category": {"pk": self.local.pk, "title": "Local", "parent": self.news.pk},
            "author": {"pk": self.user.pk, "username": "ann"},
            "title": "First",
            "body": "",
            "published": False,
            "created": "2024-05-06T07:08:09.123456Z",
            "price": "9.50",
            "rating": None,
            "readers": [self.other.pk],
            "tags": [{"pk": tag.pk, "name": "red", "slug": "red"}],
        }
        self.assertEqual([*self.shown(self.article).items()], [*shown.items()])

    def test_inherited_fields_are_shown_and_the_parent_link_is_not(self):
        live = LiveTrack.objects.create(title="Two", venue="Hall")
        live.guests.add(self.other, self.user)
        keys = ["pk", "title", "pressing", "venue", "guests", "tags", "moods"]
        self.assertEqual([*self.shown(live)], keys)
        self.assert_shown(live, title="Two", venue="Hall")
        self.assertCountEqual(self.shown(live)["guests"], [self.user.pk, self.other.pk])
        self.assert_shown(self.press(live=live), live=self.shown(live))

    def test_a_relation_back_to_a_model_on_the_path_is_a_pk(self):
        pressing, twin = self.press(), Specimen.objects.create()
        live = LiveTrack.objects.create(pressing=pressing)
        Pressing.objects.update(live=live)
        self.assert_shown(self.local, parent=self.news.pk)
        self.assert_shown(Specimen.objects.create(twin=twin), twin=twin.pk)
        self.assertEqual(self.shown(live)["pressing"]["live"], live.pk)
        self.assertEqual(self.shown(pressing)["live"]["pressing"], pressing.pk)

    def test_five_levels_are_expanded_at_most(self):
        record = None
        for model in PLACES:
            record = model.objects.create(**({"within": record} if record else {}))
        data, levels = self.shown(record), 0
        while isinstance(data.get("within"), dict):
            data, levels = data["within"], levels + 1
        self.assertEqual((levels, data["within"]), (5, PLACES[0].objects.get().pk))

    def test_a_hundred_records_are_expanded_in_one_at_most(self):
        def count(data):
            inner = [value for value in data.values() if isinstance(value, dict)]
            return len(inner) + sum(map(count, inner))

        records = [model.objects.create() for model in WEB]
        for record in records:
            for name, other in zip("abcdefg", records, strict=True):
                setattr(record, f"to_{name}", other)
            record.save()
        self.assertEqual(count(self.shown(records[0])), 100)

    def test_expand_may_be_a_boolean_a_number_or_names(self):
        whole = self.shown(self.article)
        half = whole | {"author": self.user.pk}
        flat = half | {"category": self.local.pk}
        for expand, article in (
            (True, whole),
            (2, whole),
            (1, flat),
            (0, self.article.pk),
            (False, self.article.pk),
            (["supplier"], self.article.pk),
            (["article"], flat),
            (["article__category"], half),
            (["article__category", "article__author"], whole),
        ):
            with self.subTest(expand=expand):
                self.serve(Offer, expand=expand)
                self.assertEqual(self.shown(self.offer)["article"], article)

    def test_a_key_may_be_null_or_dangling_or_to_another_field(self):
        nothing = dict.fromkeys(("depot", "origin", "producer", "sponsor"))
        self.assert_shown(self.press(), **nothing, markets=[])
        for name, dangling in (("article", -1), ("depot", -1), ("maker", "none")):
            with self.subTest(name):
                pressing = self.press(**{f"{name}_id": dangling})
                self.assert_shown(pressing, **{"pk": pressing.pk, name: None})
                # Sent back, it stays as it is.
                path_ = f"shop/pressing/{pressing.pk}/update"
                data = self.post(path_, self.shown(pressing))["data"]
                self.assertIsNone(data[name])
                pressing.refresh_from_db()
                self.assertEqual(getattr(pressing, f"{name}_id"), dangling)
        pressing, shown = self.press(origin=self.germany), self.shown(self.germany)
        self.assert_shown(pressing, origin=shown, maker=shown)
        for country in (self.germany, None):
            Market.objects.create(pressing=pressing, country=country)
        self.serve(Pressing, expand=False)
        self.assert_shown(pressing, origin="de", maker="de", markets=["de"])

    def test_a_record_that_the_default_manager_hides_is_shown_as_its_pk(self):
        for model, name in ((Producer, "producer"), (Sponsor, "sponsor")):
            with self.subTest(name):
                related = model.objects.create()
                pressing = self.press(**{name: related})
                self.assert_shown(pressing, **{name: self.shown(related)})
                model.objects.update(is_active=False)
                self.assert_shown(pressing, **{name: related.pk})

    def test_a_relative_of_a_registered_model_is_shown_and_written_as_a_pk_only(self):
        def get_queryset(self, request):
            return self.model.objects.filter(owner=request.user)

        mine, hers = (Truck.objects.create(owner=u) for u in (self.user, self.other))
        trip, names = Trip.objects.create(), ("vehicle", "truck", "van")
        path, mine, hers = f"shop/trip/{trip.pk}/update", mine.pk, hers.pk
        rows = [
            # The model that is served; the relations to what it is responsible for, a
            # proxy included.
            (None, names),
            (Vehicle, ("vehicle", "van")),
            (Truck, ("truck",)),
            (Van, ("van",)),
        ]
        for (served, spoken), name in itertools.product(rows, names):
            for hooks in ({}, {"get_queryset": get_queryset}):
                with self.subTest(served, name=name, hooks=hooks):
                    if served:
                        self.serve(served, **hooks)
                    whose = {mine} if served and hooks else {mine, hers}
                    whose = whose if name in spoken else set()
                    for pk in (mine, hers):
                        Trip.objects.update(**dict.fromkeys(names))
                        self.post(path, {name: pk}, 200 if pk in whose else 400)
                        # A key that is there already may be sent back.
                        Trip.objects.update(**{f"{name}_id": pk})
                        data = self.post(path, {name: {"pk": pk}})["data"]
                        self.assertEqual(data[name] != pk, pk in whose)
                self.doCleanups()
        self.serve(Vehicle)
        self.assertEqual([*self.errors(path, {"trucks": [mine]})], ["trucks"])

    def test_a_returned_record_is_shown_and_its_related_records_are_filtered(self):
        def ask():
            records = [Note.objects.get(), Supplier.objects.get(), Offer.objects.get()]
            return self.ask(lambda request: records)["data"]

        Note.objects.update(article=None)
        note, supplier, offer = ask()
        self.assertEqual(offer, offer | {"note": note, "supplier": supplier})
        Note.objects.update(owner=self.other)
        Supplier.objects.update(is_private=True)
        again, keys = ask(), {"note": note["pk"], "supplier": supplier["pk"]}
        self.assertEqual(again[0]["text"], "n")
        self.assertEqual(again[1:], [supplier | {"is_private": True}, offer | keys])
        # encode() has no user.
        self.assertEqual(ajax.encoder.encode(Offer.objects.get()), offer | keys)

    def test_code_that_runs_when_an_instance_is_made_is_respected_everywhere(self):
        def shout(sender, instance, **kwargs):
            if isinstance(instance, Category):
                instance.title = instance.title.upper()
            return instance

        def init(record, *args):
            models.Model.__init__(record, *args)
            shout(Category, record)

        def from_db(cls, *args, **kwargs):
            return shout(cls, models.Model.from_db.__func__(cls, *args, **kwargs))

        convert = mock.Mock(side_effect=lambda value, *arguments: value.upper())
        title = Category._meta.get_field("title")
        for way in (
            mock.patch.object(Category, "__init__", init),
            mock.patch.object(Category, "from_db", classmethod(from_db)),
            mock.patch.object(title, "from_db_value", convert, create=True),
            mock.patch.object(post_init, "receivers", [*post_init.receivers]),
        ):
            with self.subTest(way.attribute), way:
                if way.attribute == "receivers":
                    self.receive(post_init, shout)
                self.serve(Category)  # The plans of models are made again.
                self.assert_shown(self.local, title="LOCAL")
                self.assertEqual(self.shown(self.article)["category"]["title"], "LOCAL")
                categories = self.post("shop/category/list")["data"]
                titles = [category["title"] for category in categories]
                self.assertEqual(titles, ["NEWS", "LOCAL"])
                self.doCleanups()

    def test_each_kind_of_value(self):
        utc, half = datetime.timezone.utc, datetime.timedelta(hours=5, minutes=30)
        moment, east = datetime.datetime, datetime.timezone(half)
        ident, odd = uuid.uuid4(), '" & <b> \u2028 \U0001f600 \\'
        # MariaDB cannot store infinity.
        infinite = [("float", float("inf"), None)] * (connection.vendor != "mysql")
        for name, value, shown in (
            ("text", odd, odd),
            ("uuid", ident, str(ident)),
            ("address", "::1", "::1"),
            ("decimal", Decimal("9.50"), "9.50"),
            ("boolean", False, False),
            ("big", 2**53 - 1, 2**53 - 1),
            ("big", 2**53, str(2**53)),
            ("big", -(2**53) + 1, -(2**53) + 1),
            ("big", -(2**62), str(-(2**62))),
            ("float", 0.5, 0.5),
            *infinite,
            ("date", datetime.date(2024, 2, 29), "2024-02-29"),
            ("time", datetime.time(1, 2, 3), "01:02:03"),
            (
                "moment",
                moment(2024, 1, 2, 3, 4, 5, 6, utc),
                "2024-01-02T03:04:05.000006Z",
            ),
            ("moment", moment(2024, 1, 2, 3, tzinfo=east), "2024-01-01T21:30:00Z"),
            ("duration", datetime.timedelta(days=1, seconds=2), "P1DT00H00M02S"),
            ("json", {"a": [1, None, "x", {}]}, {"a": [1, None, "x", {}]}),
            ("json", "text", "text"),
            ("binary", b"\0\xff", "AP8="),
            ("file", "", None),
            ("file", SimpleUploadedFile("one.txt", b"x"), "/media/specimens/one.txt"),
        ):
            with self.subTest(name, value=value):
                record = Specimen.objects.create(**{name: value})
                self.assert_shown(record, **{name: shown})
        # A storage may have no URLs, as the base class.
        with mock.patch.object(Specimen._meta.get_field("file"), "storage", Storage()):
            self.assert_shown(record, file=None)

    def store_json(self, text):
        """Return a new specimen whose column `json` holds a text as it is."""
        specimen = Specimen.objects.create(text="a")
        with connection.cursor() as cursor:
            sql = f"UPDATE {Specimen._meta.db_table} SET json = %s WHERE id = %s"
            cursor.execute(sql, [text, specimen.pk])
        return specimen

    @unittest.skipUnless(connection.vendor == "sqlite", "Others cannot store it.")
    def test_nan_and_infinities_in_a_json_field_are_null(self):
        fields = ["json", "text", "whole", "data", "number"]
        annotations = {"whole": models.F("json")}
        data = property(lambda self: float("nan"))
        number = lambda self, record: record.json  # noqa: E731
        reveal = lambda self, request: self.record.json  # noqa: E731
        options = {"data": data, "number": number, "reveal": reveal}
        self.serve(Specimen, fields=fields, annotations=annotations, **options)
        nested = '{"a": [1, NaN, {"b": -Infinity}], "c": 1e999, "d": 5}'
        plain = {"a": [1, None, {"b": None}], "c": None, "d": 5}
        # Tables may be older than the constraint that a JSONField has.
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints = ON")
            self.addCleanup(
                connection.connection.execute, "PRAGMA ignore_check_constraints = OFF"
            )
        for stored, shown in (
            ("NaN", None),
            ("Infinity", None),
            ("1e999", None),
            ("[1, NaN, 2]", [1, None, 2]),
            (nested, plain),
        ):
            with self.subTest(stored):
                specimen = self.store_json(stored)
                path = f"shop/specimen/{specimen.pk}"
                record = self.post(f"{path}/get")["data"]
                json_values = [record[name] for name in ("json", "whole", "number")]
                self.assertEqual(json_values, [shown, shown, shown])
                self.assertIsNone(record["data"])
                self.assertEqual(self.post("shop/specimen/list")["data"], [record])
                self.assertEqual(self.post(f"{path}/reveal")["data"], shown)
                changed = self.post(f"{path}/update", {"text": "b"})
                self.assertEqual(changed["data"], record | {"text": "b"})
                self.assertNotIn("ignored", changed)
                back = self.post(f"{path}/update", record)
                self.assertEqual(back["data"], record)
                self.post(f"{path}/delete")

    @unittest.skipUnless(connection.vendor == "sqlite", "Others have no infinite one.")
    def test_a_number_in_json_that_is_infinite_in_python_is_null(self):
        annotations = {"amount": models.F("json__c")}
        self.serve(Specimen, fields=["json", "text", "amount"], annotations=annotations)
        specimen = self.store_json('{"c": 1e999}')
        path = f"shop/specimen/{specimen.pk}"
        record = self.post(f"{path}/get")["data"]
        self.assertEqual(record["json"], {"c": None})
        self.assertIsNone(record["amount"])
        self.assertEqual(self.post("shop/specimen/list")["data"], [record])
        # Django's constraint keeps it from being saved again, unless it is corrected.
        self.post(f"{path}/update", {"text": "b"}, status=409)
        corrected = self.post(f"{path}/update", {"json": {"c": 1}})["data"]
        self.assertEqual((corrected["json"], corrected["amount"]), ({"c": 1}, 1))

    def test_nan_in_what_a_function_returns_is_null(self):
        nan, infinite = float("nan"), float("inf")
        specimen = Specimen(json={"a": [nan, {"b": -infinite}], "c": 2**60})
        shown = {"a": [None, {"b": None}], "c": 2**60}
        self.assertEqual(ajax.encoder.encode(specimen)["json"], shown)
        for value, plain in (
            (nan, None),
            ((nan, 1.5), [None, 1.5]),
            ({"a": {"b": infinite}}, {"a": {"b": None}}),
            (Decimal("-Infinity"), None),
            (Decimal("sNaN"), None),
            ([Specimen(json=[nan]).json], [[None]]),
        ):
            with self.subTest(value):
                self.assertEqual(self.ask(lambda r, value=value: value)["data"], plain)
        reply = self.ask(lambda request: ajax.EnvelopedResponse(nan, {"beside": nan}))
        self.assertEqual((reply["data"], reply["beside"]), (None, None))
        reply = self.ask(ajax.AJAXError(400, "No.", beside=[nan]), 400)
        self.assertEqual(reply["beside"], [None])
        reply = self.ask(lambda request: specimen)["data"]
        self.assertEqual(reply["json"], shown)

    def test_a_key_that_javascript_would_round_is_text_everywhere(self):
        comet = Comet.objects.create(pk=2**60)
        self.assert_shown(comet, pk=str(2**60))
        tail = Tail.objects.create(comet=comet)
        self.assert_shown(tail, comet={"pk": str(2**60)})
        self.serve(Tail, expand=False)
        self.assert_shown(tail, comet=str(2**60))

    def test_a_relation_that_is_the_pk_is_shown_as_both(self):
        royalty = Royalty(country=self.germany)
        shown = {"pk": "de", "country": {"pk": "de", "name": "Germany"}}
        self.assertEqual(ajax.encoder.encode(royalty), shown | {"share": None})
        royalty.save()
        self.assertEqual(self.shown(royalty), shown | {"share": 7})
        self.assertIsNone(ajax.encoder.encode(Crate())["doubled"])

    def test_unsaved_and_unclean_instances_are_shown_as_they_are(self):
        never = {"decimal": Decimal("NaN"), "float": float("-inf")}
        text = {"decimal": "9.5", "big": "7", "date": "2024-01-01", "boolean": "yes"}
        nothing = {"pk": None, "file": None, "keepers": [], "tags": []}
        for values, shown in ((text, text | nothing), (never, dict.fromkeys(never))):
            data = ajax.encoder.encode(Specimen(**values))
            self.assertEqual(data, data | shown)
        record = Specimen.objects.create()
        record.keepers.add(self.user)
        record.tags.add("soft")
        record.pk = str(record.pk)
        data = ajax.encoder.encode(record)
        self.assertEqual((data["keepers"], len(data["tags"])), ([self.user.pk], 1))
        local = Article(category_id=str(self.local.pk))
        new = Article(category=Category(title="New"))
        data = ajax.encoder.encode([local, new])
        titles = [article["category"]["title"] for article in data]
        self.assertEqual(titles, ["Local", "New"])

    def test_the_encoder_of_a_model_is_used_everywhere(self):
        user = {"pk": self.user.pk, "username": "ann", "first_name": ""}
        rest = {field.name for field in User._meta.get_fields()} - user.keys()
        category = {"pk": self.local.pk, "title": "Local"}
        by_tell = category | {"at": "2024-01-02", "is": "<"}
        include, exclude = ajax.IncludeEncoder, ajax.ExcludeEncoder
        for record, encoder, shown in (
            (self.user, include([*user]), user),
            (self.user, include(include=[*user, "password"]), user),
            (self.user, exclude(exclude=rest - {"password"}), user),
            # An encoder never shows a field that the endpoint hides: here, the parent.
            (self.local, include(["parent", "title"]), category),
            (self.local, exclude(["title"]), {"pk": self.local.pk}),
            (self.local, Tell, by_tell),
            (self.local, Tell(), by_tell),
        ):
            with self.subTest(encoder=encoder):
                self.serve(Category, exclude=["parent"])
                self.serve(User)
                self.register_encoder(type(record), encoder)
                name = "author" if record == self.user else "category"
                self.assertEqual(self.shown(self.article)[name], shown)
                self.assertEqual(self.shown(self.offer)["article"][name], shown)
                answer = mock.Mock(return_value=record)
                self.assertEqual(self.ask(answer)["data"], shown)
                self.assertEqual(ajax.encoder.encode(record), shown)
                self.doCleanups()

    def test_html_is_escaped_once_for_a_model_or_for_a_call(self):
        self.article.tags.set(["<i>"])
        values = [Article(pk=self.article.pk, category=Category(title="<b>")), "<"]
        values.append(Specimen(json={"<": ["<"]}))
        once = functools.partial(ajax.encoder.encode, html_escape=True)
        article, text, specimen = once(values)
        self.assertEqual(article["category"]["title"], "&lt;b&gt;")
        self.assertEqual(article["tags"][0]["name"], "&lt;i&gt;")
        self.assertEqual((text, specimen["json"]), ("&lt;", {"&lt;": ["&lt;"]}))
        self.assertEqual(once(values[0].category, Tell)["title"], "&lt;b&gt;")
        self.register_encoder(Category, ajax.HTMLEscapeEncoder)
        for article in (ajax.encoder.encode(values[0]), once(values[0])):
            self.assertEqual(article["category"]["title"], "&lt;b&gt;")
        self.assertEqual(self.shown(self.article)["tags"][0]["name"], "<i>")

    def test_a_model_has_one_encoder_which_has_to_be_an_encoder(self):
        with self.assertRaisesMessage(ajax.NotRegistered, "shop.Category"):
            ajax.encoder.unregister(Category)
        escaping = type("Escaping", (ajax.DefaultEncoder,), {"_escape": yes})
        for wrong, message in [
            *((value, "DefaultEncoder") for value in (yes, "Tell", ajax.ModelEndpoint)),
            (escaping, "_escape"),
            (escaping(), "_escape"),
        ]:
            with self.assertRaisesMessage(ImproperlyConfigured, message):
                self.register_encoder(Category, wrong)
        self.assertFalse(ajax.encoder.is_registered(Category))
        self.register_encoder(Category, ajax.ExcludeEncoder(exclude=["parent"]))
        self.assertTrue(ajax.encoder.is_registered(Category))
        with self.assertRaisesMessage(ajax.AlreadyRegistered, "shop.Category"):
            ajax.encoder.register(Category, ajax.DefaultEncoder)

    def test_encode_takes_a_record_a_queryset_or_any_iterable(self):
        encode, title = ajax.encoder.encode, {"pk": self.news.pk, "title": "News"}
        one, news = self.shown(self.article), title | {"parent": None}
        only = ajax.IncludeEncoder(include=["title"])
        for arguments, shown in (
            ([self.article], one),
            ([self.news], news),
            ([self.news, only], title),
            ([Article.objects.all()], [one]),
            ([Article.objects.only("title")], [one]),
            ([Article.objects.none()], []),
            ([[]], []),
            ([iter([self.news])], [news]),
            ([(self.article, self.news)], [one, news]),
            ([[self.news], only], [title]),
            ([[self.news, {"of": self.news}, "<"]], [news, {"of": news}, "<"]),
        ):
            self.assertEqual(encode(*arguments), shown)
        self.assertEqual(ajax.DefaultEncoder().to_dict(self.article), one)
        self.assertEqual(Tell().to_dict(self.local)["title"], "Local")
        # There is no user in encode().
        self.serve(Category, fields=["mine"], mine=lambda self, record: self.user.pk)
        self.assertEqual(encode(self.news), {"pk": self.news.pk, "mine": None})

    def make(self, count):
        for number in range(count):
            name = {"code": f"{number}", "name": f"{number}"}
            country, _is_new = Country.objects.get_or_create(**name)
            specimen = Specimen.objects.create(country=country)
            article = Article.objects.create(
                author=User.objects.create(username=f"{count}-{number}"),
                category=Category.objects.create(title="C"),
                title="T",
                price=1,
            )
            for manager in (article.readers, specimen.keepers):
                manager.add(self.user, self.other)
            for manager in (article.tags, specimen.tags):
                manager.add("red", f"{number}")
            note = Note.objects.create(owner=self.user, article=article, text="n")
            supplier = Supplier.objects.create(name="S")
            Offer.objects.create(article=article, supplier=supplier, note=note)

    def test_a_joined_record_is_shown_like_a_single_one(self):
        winery = Winery.objects.create(name="Hill")
        wine = Wine.objects.create(name="Red", winery=winery)
        self.assertEqual(self.shown(wine)["winery"], self.shown(winery))

    def test_an_encoder_may_show_records_in_what_it_adds(self):
        class WithNotes(ajax.DefaultEncoder):
            def to_dict(self, record, **options):
                return {"notes": [record.author, 1], "by": record.author}

        self.register_encoder(Article, WithNotes())
        author = {"pk": self.article.author_id, "username": "ann"}
        shown = self.shown(self.article)
        self.assertEqual(shown, {"notes": [author, 1], "by": author})

    def test_the_descriptor_of_a_field_is_respected(self):
        class Loud:
            def __get__(self, record, model=None):
                return self if record is None else vars(record)["name"].upper()

            def __set__(self, record, value):
                vars(record)["name"] = value

        france = Country.objects.create(code="fr", name="France")
        with mock.patch.object(Country, "name", Loud()):
            self.serve(Country)
            self.assertEqual(self.shown(france)["name"], "FRANCE")

    def test_queries_do_not_grow_with_rows(self):
        def count(way):
            way()  # The first call fills the caches.
            with CaptureQueriesContext(connection) as queries:
                way()
            return len(queries)

        # One query for each of readers, keepers, tags and notes.
        beside = {Category: 0, Supplier: 0, Article: 2, Specimen: 2, Note: 2, Offer: 5}
        for model in beside:
            self.serve(model, list_per_page=100)
        others = [
            lambda: ajax.encoder.encode(Offer.objects.all()),
            lambda: ajax.encoder.encode([*Article.objects.all()]),
            lambda: self.ask(lambda request: Offer.objects.all()),
            lambda: self.post(f"{self.path}/tags/similar"),
        ]
        counts = []
        for more in (5, 45):
            self.make(more)
            for model, number in beside.items():
                with self.subTest(model, more=more):
                    get = functools.partial(self.shown, model.objects.last())
                    path = f"shop/{model._meta.model_name}"
                    # The session and its user take two more.
                    self.assertEqual(count(get), 2 + 1 + number)
                    listed = functools.partial(self.post, f"{path}/list")
                    self.assertEqual(count(listed), 2 + 2 + number)
                    self.assertEqual(len(listed()["data"]), model.objects.count())
            counts.append([count(way) for way in others])
        self.assertEqual(counts[0], counts[1])
        # A queryset that defers fields takes no more queries.
        rows = Article.objects.only("pk")
        self.serve(Article, can_get=yes, get_queryset=lambda self, request: rows)
        self.assertEqual(count(lambda: self.post("shop/article/list")), 2 + 2 + 2)

    def test_a_model_with_more_relations_than_a_database_joins_is_shown_whole(self):
        countries = [Country.objects.create(code=name, name=name) for name in "xyz"]
        keys = dict(zip(CHANNELS, itertools.cycle(countries)))
        pks = {name: country.pk for name, country in keys.items()}
        whole = {name: {"pk": pk, "name": pk} for name, pk in pks.items()}
        for model in (Mixer, Patch):
            record = model.objects.create(**keys)
            self.assert_shown(record, **whole)
            self.serve(model, expand=False)
            self.assert_shown(record, **pks)

    def test_a_record_is_shown_whole_only_where_its_endpoint_would_answer_get(self):
        def deny(self, request, application, method):
            raise exceptions.PermissionDenied

        def refuse(self, request, application, method):
            raise ajax.AJAXError(403, "No.")

        def ask_who(self, request, application, method):
            raise ajax.AJAXError(401, "Who are you?")

        def forbidden(self, user_or_request, record=None):
            raise AssertionError("A refused user must not get this far.")

        pk = self.article.pk
        for attributes in [
            {"authenticate": no, "get_queryset": forbidden, "can_get": forbidden},
            {"authenticate": deny, "get_queryset": forbidden},
            {"authenticate": refuse, "get_queryset": forbidden},
            {"authenticate": ask_who, "get_queryset": forbidden},
            {"operations": ["create", "list"]},
            {"operations": []},
        ]:
            with self.subTest(attributes):
                self.serve(Article, **attributes)
                # As an expansion, within one, in a list, computed, and generic.
                self.assertEqual(self.shown(self.offer)["article"], pk)
                offers = self.post("shop/offer/list")["data"]
                self.assertEqual({offer["article"] for offer in offers}, {pk})
                self.serve(
                    Offer, fields=["first"], first=lambda self, offer: offer.article
                )
                self.assertEqual(self.shown(self.offer)["first"], pk)
                returned = self.ask(lambda request: Offer.objects.get())["data"]
                self.assertEqual(returned["first"], pk)
                self.doCleanups()

    def test_an_expansion_asks_authenticate_once_per_request_and_model(self):
        asked = mock.Mock(return_value=True)
        self.serve(
            Category, authenticate=lambda self, request, *names: asked(request, *names)
        )
        self.make(5)
        self.post("shop/article/list")
        asked.assert_called_once_with(mock.ANY, "shop", "get")
        self.serve(
            Category, authenticate=mock.Mock(side_effect=ajax.AJAXError(409, "x"))
        )
        self.post(f"{self.path}/get", status=409)

    def test_visitors_see_the_pk_of_what_wants_a_login(self):
        self.serve(Article, authenticate=yes, expand=True)
        self.client.logout()
        article = self.shown(self.article)
        pks = (article["category"], article["author"])
        self.assertEqual(pks, (self.local.pk, self.user.pk))
        # Neither an endpoint nor an encoder: as an endpoint with all defaults.
        ajax.endpoint.unregister(Category)
        self.addCleanup(ajax.endpoint.register, Category, OpenEndpoint)
        self.assertEqual(self.shown(self.article)["category"], self.local.pk)
        # An encoder alone says what is shown, to whoever sees the outer record.
        self.register_encoder(Category, ajax.IncludeEncoder(include=["title"]))
        shown = {"pk": self.local.pk, "title": "Local"}
        self.assertEqual(self.shown(self.article)["category"], shown)

    def test_a_hint_names_the_endpoints_that_close_an_expansion_in_debug(self):
        self.serve(Category, authenticate=no)
        self.serve(User, operations=["list"])
        with self.settings(DEBUG=True):
            for path in (f"{self.path}/get", "shop/article/list"):
                hint = self.post(path)["hint"]
                self.assertIn("CategoryEndpoint.authenticate refuses", hint)
                self.assertIn("UserEndpoint.operations has no get", hint)
            self.doCleanups()
            self.assertNotIn("hint", self.post(f"{self.path}/get"))
        self.serve(Category, authenticate=no)
        self.assertNotIn("hint", self.post(f"{self.path}/get"))

    def test_without_a_user_what_wants_one_stays_a_pk(self):
        for attributes in [
            {"authenticate": yes},
            {"can_get": yes},
            {"get_queryset": lambda self, request: Category.objects.all()},
            {"operations": ["list"]},
        ]:
            with self.subTest(attributes):
                self.serve(Category, **attributes)
                article = ajax.encoder.encode(self.article)
                self.assertEqual(article["category"], self.local.pk)
                self.doCleanups()
        self.assertEqual(
            ajax.encoder.encode(self.article)["category"]["title"], "Local"
        )

    def test_a_generic_foreign_key_costs_a_query_per_model_and_breaks_nothing(self):
        article = ContentType.objects.get_for_model(Article)
        stale = ContentType.objects.create(app_label="gone", model="gone")

        def targets():
            labels = self.post("shop/label/list")["data"]
            return [label["target"] for label in labels]

        for kind, key in [(article, self.article.pk), (article, 0), (stale, 1)]:
            Label.objects.create(kind=kind, key=key)
        whole, *nothing = targets()
        self.assertEqual(whole["title"], "First")
        self.assertEqual(nothing, [None, None])
        with CaptureQueriesContext(connection) as queries:
            targets()
        for _ in range(5):
            Label.objects.create(target=self.article)
        with self.assertNumQueries(len(queries)):
            self.assertEqual(targets(), [whole, None, None, *[whole] * 5])
        # What may not be seen is its pk, what is not there is null.
        pk = self.article.pk
        self.serve(Article, authenticate=no)
        self.assertEqual(targets(), [pk, None, None, *[pk] * 5])
        label = ajax.encoder.encode(Label(target=self.article))
        self.assertEqual(label, {"pk": None, "target": pk})
        # As where a database holds no constraints.
        lost = mock.Mock(side_effect=ContentType.DoesNotExist)
        with mock.patch.object(ContentType.objects, "get_for_id", lost):
            self.assertEqual(targets(), [None] * 8)

    def test_a_generic_key_that_is_no_key_of_its_model_is_null(self):
        article = ContentType.objects.get_for_model(Article)
        nothing = Label.objects.create(kind=None, key="1")
        self.assertIsNone(self.shown(nothing)["target"])
        for key in ("x", "1_0", "", None, str(self.article.pk)):
            label = Label.objects.create(kind=article, key=key)
            with self.subTest(key):
                expected = self.article.pk if key == str(self.article.pk) else None
                shown = self.shown(label)["target"]
                self.assertEqual(shown and shown["pk"], expected)

    def test_a_columns_value_of_a_class_of_its_own_is_its_text(self):
        number = Phone.objects.create(number="+49 30 1")
        shown = {"pk": number.pk, "number": "+49 30 1", "scan": "/scans/of/+49 30 1"}
        self.assertEqual(self.shown(number), shown)
        self.assertEqual(self.post("shop/phone/list")["data"], [shown])
        self.assertEqual(ajax.encoder.encode(number), shown)
        call = self.post("shop/phonecall", {"phone": number.pk})["data"]
        self.assertEqual(call["phone"], shown)
        several = [Number("1"), {"a": Number("2")}, Decimal(3)]
        number.number = several
        self.assertEqual(ajax.encoder.encode(number)["number"], ["1", {"a": "2"}, "3"])

    def test_integers_of_a_jsonfield_are_as_they_are_however_large(self):
        big = {"n": [2**53, -(2**70)], "deep": {"n": 2**64}}
        record = Specimen.objects.create(json=big)
        path = f"shop/specimen/{record.pk}"
        for data in (
            self.shown(record),
            self.post("shop/specimen/create", {"json": big})["data"],
            self.post(f"{path}/update", {"json": big, "char": "x"})["data"],
            self.post("shop/specimen/list", {"char": "x"})["data"][0],
            self.ask(lambda request: record)["data"],
            ajax.encoder.encode(record),
        ):
            self.assertEqual(data["json"], big)
        self.assertEqual(self.ask(lambda request: 2**53)["data"], str(2**53))

    def test_with_routers_each_relation_is_read_from_the_database_they_name(self):
        memory = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        connections.databases["mirror"] = connection.settings_dict | memory
        self.addCleanup(connections.databases.pop, "mirror")
        self.addCleanup(connections.__delitem__, "mirror")
        says, both = {}, mock.patch.object(Encoding, "databases", [*connections])
        router = mock.Mock(spec=["db_for_read"])
        router.db_for_read = lambda model, **hints: says.get(model)
        with both, self.settings(DATABASE_ROUTERS=[router]):
            with connections["mirror"].schema_editor() as editor:
                editor.create_model(Category)
            self.addCleanup(connections["mirror"].connection.close)
            Category.objects.using("mirror").create(pk=self.local.pk, title="Mirrored")
            self.serve(Article)  # The plans of models are made again.
            for alias in ("default", "mirror", "default"):
                says[Category] = alias
                article = Article.objects.get()
                shown = {"pk": self.local.pk, "parent": None, "title": "Mirrored"}
                if alias == "default":
                    shown |= {"parent": self.news.pk, "title": "Local"}
                for data in (
                    self.shown(article),
                    self.shown(self.offer)["article"],
                    self.post("shop/article/list")["data"][0],
                    self.ask(lambda request: Article.objects.get())["data"],
                    ajax.encoder.encode(article),
                ):
                    self.assertEqual(data["category"], shown)

    def test_generic_keys_to_nothing_cost_no_query_each(self):
        count = None
        for _ in range(3):
            Label.objects.create(kind=None, key=None)
            Label.objects.create(kind=None, key="1")
            with CaptureQueriesContext(connection) as queries:
                labels = self.post("shop/label/list")["data"]
            self.assertEqual({label["target"] for label in labels}, {None})
            count = count or len(queries)
            self.assertEqual(len(queries), count)


# --- Third parties --------------------------------------------------------------------

from djmoney.models.fields import MoneyField
from djmoney.money import Money
from model_utils import FieldTracker
from phonenumber_field.formfields import PhoneNumberField as PhoneNumberFormField
from phonenumber_field.modelfields import PhoneNumberField


class UndeletedManager(models.Manager):
    def get_queryset(self):
        return super().get_queryset().filter(is_deleted=False)


class Room(models.Model):
    """One that is deleted stays in the table, where the manager hides it."""

    name = models.CharField(max_length=20)
    is_deleted = models.BooleanField(default=False, editable=False)
    objects = UndeletedManager()
    everything = models.Manager()

    def delete(self, *args, **kwargs):
        self.is_deleted = True
        self.save()


class Guest(models.Model):
    name = models.CharField(max_length=20)
    phone = PhoneNumberField()
    fax = PhoneNumberField(null=True, blank=True, region="CH")
    mobile = PhoneNumberField(blank=True, default="")
    tracker = FieldTracker()
    #: What `tracker` says in save().
    changes = []

    def save(self, *args, **kwargs):
        self.changes.append(self.tracker.changed())
        super().save(*args, **kwargs)


class Stay(models.Model):
    guest = models.ForeignKey(Guest, models.CASCADE)
    room = models.ForeignKey(Room, models.SET_NULL, null=True, blank=True)
    extra_rooms = models.ManyToManyField(Room, blank=True, related_name="extra_stays")
    price = MoneyField(max_digits=8, decimal_places=2, default_currency="USD")
    #: Money that has no currency until one is stored with it.
    deposit = MoneyField(
        max_digits=8, decimal_places=2, default_currency=None, null=True, blank=True
    )


class TicketNumber:
    def __init__(self, number):
        self.number = number

    def __str__(self):
        return f"T-{self.number}"

    def __eq__(self, other):
        return str(self) == str(other)

    def __hash__(self):
        return hash(self.number)


class TicketField(models.BigAutoField):
    """A key that is a number only in the database, as those of django-hashid-field."""

    def to_python(self, value):
        if value is None or isinstance(value, TicketNumber):
            return value
        return TicketNumber(int(str(value).removeprefix("T-")))

    def from_db_value(self, value, expression, connection):
        return value if value is None else TicketNumber(value)

    def get_prep_value(self, value):
        return value if value is None else self.to_python(value).number

    def run_validators(self, value):
        super().run_validators(value.number)


class Ticket(models.Model):
    id = TicketField(primary_key=True)
    name = models.CharField(max_length=20)


class Seat(models.Model):
    ticket = models.ForeignKey(Ticket, models.CASCADE)


class ZoneField(models.CharField):
    """Its values are looked up in files, as those of django-timezone-field."""

    def to_python(self, value):
        if value == "Nowhere":
            raise FileNotFoundError(value)
        return value


class Latch:
    """An attribute that can be set once, as the protected ones of django-fsm."""

    def __get__(self, record, owner):
        return self if record is None else vars(record)["state"]

    def __set__(self, record, value):
        if "state" in vars(record):
            raise AttributeError("It is set already.")
        vars(record)["state"] = value


class LatchField(models.CharField):
    def contribute_to_class(self, model, name):
        super().contribute_to_class(model, name)
        setattr(model, name, Latch())


class Clock(models.Model):
    state = LatchField(max_length=20, default="slow")
    zone = ZoneField(max_length=20, choices=[(TicketNumber(1), "One"), ("UTC", "UTC")])


@ajax.register(Guest)
class GuestEndpoint(OpenEndpoint):
    list_filter = ["phone", "fax", "phone__startswith"]
    search_fields = ["phone"]
    sortable_by = ["phone"]


@ajax.register(Stay)
class StayEndpoint(OpenEndpoint):
    list_filter = ["price", "price__gte", "price_currency", "deposit", "room"]
    search_fields = ["guest__phone", "room__name"]
    sortable_by = ["price"]


ajax.endpoint.register([Room, Ticket, Seat, Clock], OpenEndpoint)


class CallbackForm(forms.Form):
    phone = PhoneNumberFormField()
    guest = forms.ModelChoiceField(Guest.objects.all(), required=False)


GuestForm = forms.modelform_factory(Guest, fields="__all__")
StayForm = forms.modelform_factory(Stay, fields="__all__")
ajax.endpoint.register([GuestForm, StayForm, CallbackForm], FormsEndpoint)


class ThirdParties(AjaxTestCase):
    """Models with the fields and managers of packages that many projects use."""

    phone, other_phone = "+41446681800", "+41446681801"

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.guest = Guest.objects.create(name="Gil", phone=cls.phone)
        cls.room = Room.objects.create(name="Attic")
        cls.suite = Room.objects.create(name="Loft")
        cls.stay = Stay.objects.create(
            guest=cls.guest, room=cls.room, price=Money("10.50", "EUR")
        )
        cls.stay.extra_rooms.add(cls.room, cls.suite)
        cls.ticket = Ticket.objects.create(name="Return")

    def update(self, record, form=False, **sent):
        path = f"shop/{record._meta.model_name}/{record.pk}/update"
        return self.post(path, sent, form=form)["data"]

    def refused(self, record, **sent):
        """Return the keys of the errors of an update and of a create."""
        path = f"shop/{record._meta.model_name}"
        errors = self.errors(f"{path}/{record.pk}/update", sent)
        self.assertLessEqual({*errors}, {*self.errors(path, sent)})
        return [*errors]

    def found(self, name, **sent):
        """Return the pks that a list has."""
        return [record["pk"] for record in self.post(f"shop/{name}/list", sent)["data"]]

    # Columns of their own class

    def test_a_phone_number_is_its_text_wherever_it_is_shown(self):
        sent = {"name": "Ida", "phone": "+41 44 668 18 01", "fax": "044 668 18 02"}
        shown = {"name": "Ida", "phone": self.other_phone, "fax": "+41446681802"}
        shown["mobile"] = ""
        for form in (False, True):
            made = self.post("shop/guest", sent, form=form)["data"]
            self.assertEqual(made, {"pk": made["pk"], **shown})
        guest = Guest.objects.get(pk=made["pk"])
        self.assertEqual(self.shown(guest), made)
        self.assertEqual(self.post("shop/guest/list")["data"][-1], made)
        self.assertEqual(ajax.encoder.encode(guest), made)
        stay = self.post("shop/stay", {"guest": guest.pk, "price": 1})["data"]
        self.assertEqual(stay["guest"], made)
        self.assertEqual(self.ask(lambda request: [guest])["data"], [made])

    def test_a_phone_number_is_found_and_sorted_by(self):
        other = Guest.objects.create(name="Ida", phone=self.other_phone)
        both = [self.guest.pk, other.pk]
        for sent, expected in [
            ({"phone": self.phone}, both[:1]),
            ({"phone": "+41 44 668 18 00"}, both[:1]),
            ({"phone": [self.phone, self.other_phone]}, both),
            ({"phone": "nonsense"}, []),
            ({"phone__startswith": "+4144"}, both),
            ({"fax": None}, both),
            ({"search": "1801"}, both[1:]),
            ({"order_by": "-phone"}, both[::-1]),
        ]:
            with self.subTest(sent):
                self.assertEqual(self.found("guest", **sent), expected)
        self.assertEqual(self.found("stay", search="1800"), [self.stay.pk])

    def test_phone_numbers_that_are_none_are_errors_of_their_keys(self):
        for key in ("phone", "fax", "mobile"):
            for sent in ("x", "5", 5, "+1", "1" * 200, True, {}, [self.phone]):
                with self.subTest(key, sent=sent):
                    self.assertEqual(self.refused(self.guest, **{key: sent}), [key])
        self.assertEqual(self.refused(self.guest, phone=None), ["phone"])
        self.assertEqual(self.refused(self.guest, phone=""), ["phone"])
        # Null and the empty text are what the field allows.
        self.update(self.guest, fax=self.phone, mobile=self.phone)
        shown = self.update(self.guest, fax=None, mobile="")
        self.assertEqual((shown["fax"], shown["mobile"]), (None, ""))

    def test_money_is_an_amount_as_text_beside_its_currency(self):
        shown = self.shown(self.stay)
        self.assertEqual((shown["price"], shown["price_currency"]), ("10.50", "EUR"))
        self.assertEqual((shown["deposit"], shown["deposit_currency"]), (None, None))
        with translation.override("de"):  # Its own text is "10,50 €".
            for data in (
                self.shown(self.stay),
                self.post("shop/stay/list")["data"][0],
                self.ask(lambda request: Stay.objects.get())["data"],
                ajax.encoder.encode(Stay.objects.get()),
            ):
                self.assertEqual(data["price"], "10.50")

    def test_an_amount_that_is_written_keeps_its_currency(self):
        for sent in ("11.00", 11, 11.0):
            Stay.objects.update(price="10.50")
            shown = self.update(self.stay, price=sent)
            self.assertEqual(
                (shown["price"], shown["price_currency"]), ("11.00", "EUR")
            )
        made = self.post("shop/stay", {"guest": self.guest.pk, "price": "5"})["data"]
        self.assertEqual((made["price"], made["price_currency"]), ("5.00", "USD"))
        # A currency that is not editable is shown, and not written.
        self.assertEqual(self.update(self.stay, price_currency="CHF"), shown)

    def test_an_amount_is_found_and_sorted_by(self):
        cheap = Stay.objects.create(guest=self.guest, price=Money(3, "USD"))
        both = [self.stay.pk, cheap.pk]
        for sent, expected in [
            ({"price": "10.5"}, both[:1]),
            ({"price": ["3", 10.5]}, both),
            ({"price__gte": "4"}, both[:1]),
            ({"price_currency": "USD"}, both[1:]),
            ({"deposit": None}, both),
            ({"order_by": "price"}, both[::-1]),
        ]:
            with self.subTest(sent):
                self.assertEqual(self.found("stay", **sent), expected)
        for key in ("price", "price__gte", "deposit"):
            errors = self.errors("shop/stay/list", {key: "10,50 €"})
            self.assertEqual([*errors], [key])

    def test_amounts_that_are_none_are_errors_of_their_keys(self):
        for sent in (
            "x",
            "",
            "5 EUR",
            "€5",
            "NaN",
            "1.001",
            10**9,
            True,
            [5],
            {},
            None,
        ):
            with self.subTest(sent=sent):
                self.assertEqual(self.refused(self.stay, price=sent), ["price"])
        # Django-money wants a currency before it takes an amount.
        self.assertEqual(self.refused(self.stay, deposit="5"), ["deposit"])

    def test_an_amount_and_its_currency_are_written_together(self):
        """In the order of the model, whatever the order that they are sent in."""
        self.serve(Stay, fields=[field.name for field in Stay._meta.fields])
        money = {"deposit": "5.00", "deposit_currency": "CHF"}
        for sent in (money, dict(reversed(money.items()))):
            made = {"guest": self.guest.pk, "price": 1} | sent
            for shown in (
                self.update(self.stay, **sent),
                self.post("shop/stay", made)["data"],
            ):
                self.assertEqual(shown, shown | money)
            self.assertEqual(Stay.objects.get(pk=shown["pk"]).deposit, Money(5, "CHF"))
            Stay.objects.update(deposit=None, deposit_currency=None)
        shown = self.update(self.stay, price="7", price_currency="JPY")
        self.assertEqual((shown["price"], shown["price_currency"]), ("7.00", "JPY"))

    def test_what_was_read_can_be_sent_back_and_changes_nothing(self):
        def look(self, user, record, modified):
            # Django-money replaces what an instance holds when it is looked at.
            return record.price == record.price

        saved = mock.Mock()
        self.receive(models.signals.pre_save, saved)
        for can_update in (yes, look):
            self.serve(Stay, can_update=can_update)
            for record, key in ((self.guest, "phone"), (self.stay, "price")):
                whole = self.shown(record)
                self.assertEqual(self.update(record, **whole), whole)
                self.assertEqual(self.update(record, True, **{key: whole[key]}), whole)
            self.doCleanups()
        saved.assert_not_called()

    def test_a_text_that_is_no_number_again_can_be_sent_back(self):
        with self.settings(PHONENUMBER_DEFAULT_FORMAT="NATIONAL"):
            whole = self.shown(self.guest)
            self.assertEqual(whole["phone"], "044 668 18 00")
            self.assertEqual(self.update(self.guest, **whole), whole)

    def test_model_forms_write_them_and_answer_the_record(self):
        sent = {"name": "Ida", "phone": "+41 44 668 18 01"}
        made = self.post("shop/guestform", sent)["data"]
        self.assertEqual(made["phone"], self.other_phone)
        errors = self.errors("shop/guestform", {"name": "Ida", "phone": "5"})
        self.assertEqual([*errors], ["phone"])
        # The form has an input for the amount and one for the currency.
        sent = {"guest": made["pk"], "price_0": "4.20", "price_1": "CHF"}
        for form in (False, True):
            stay = self.post("shop/stayform", sent, form=form)["data"]
            money = (stay["guest"], stay["price"], stay["price_currency"])
            self.assertEqual(money, (made, "4.20", "CHF"))
        for odd in ({"price_0": "x"}, {"price_1": "XXX"}, {"price_0": ""}):
            with self.subTest(odd):
                errors = self.errors("shop/stayform", sent | odd)
                self.assertEqual([*errors], ["price"])

    def test_a_form_without_save_answers_them_as_their_text(self):
        sent = {"phone": self.phone, "guest": self.guest.pk}
        self.assertEqual(self.post("shop/callbackform", sent)["data"], sent)
        self.assertEqual([*self.errors("shop/callbackform", {"phone": "5"})], ["phone"])

    def test_openapi_describes_them_as_what_their_fields_extend(self):
        with self.settings(DEBUG=True):
            schemas = self.client.get("/ajax/openapi.json").json()["components"]
        stay = schemas["schemas"]["shop.stay"]["properties"]
        self.assertEqual(stay["price"]["format"], "decimal")
        guest = schemas["schemas"]["shop.guest"]["properties"]
        self.assertEqual(guest["phone"]["type"], ["string"])
        self.assertEqual(guest["fax"]["type"], ["string", "null"])

    def test_a_primary_key_may_be_of_a_class_of_its_own(self):
        shown = {"pk": str(self.ticket.pk), "name": "Return"}
        self.assertEqual(self.shown(self.ticket), shown)
        self.assertEqual(self.post("shop/ticket/list")["data"], [shown])
        self.assertEqual(self.update(self.ticket, **shown), shown)
        made = self.post("shop/ticket", {"name": "Single"})["data"]
        for sent in (shown["pk"], shown, self.ticket.pk.number):
            seat = self.post("shop/seat", {"ticket": sent})["data"]
            self.assertEqual(seat["ticket"], shown)
        self.assertEqual([*self.errors("shop/seat", {"ticket": "x"})], ["ticket"])
        self.post("shop/ticket/x/get", status=404)
        # Where only the pk is told.
        path = f"shop/ticket/{made['pk']}"
        self.serve(Seat, fields=["ticket", "same"], same=lambda self, seat: seat.ticket)
        self.serve(Ticket, can_get=no, can_update=yes, can_delete=yes)
        seat = self.shown(Seat.objects.first())
        self.assertEqual((seat["ticket"], seat["same"]), (shown["pk"], shown["pk"]))
        only_pk = {"pk": made["pk"]}
        self.assertEqual(self.post(f"{path}/update", {"name": "x"})["data"], only_pk)
        self.assertEqual(self.post(f"{path}/delete")["data"], only_pk)

    def test_whatever_the_code_of_a_field_raises_is_an_error_of_its_key(self):
        self.serve(Clock, list_filter=["zone"])
        self.serve(forms.modelform_factory(Clock, fields=["zone"]))
        clock = Clock.objects.create(zone="UTC")
        path = f"shop/clock/{clock.pk}/update"
        for path_ in (path, "shop/clock/list", "shop/clockform"):
            self.assertEqual([*self.errors(path_, {"zone": "Nowhere"})], ["zone"])
        self.assertEqual([*self.errors(path, {"state": "fast"})], ["state"])
        self.assertEqual(self.shown(clock)["state"], "slow")
        created = self.post("shop/clock", {"zone": "UTC"})["data"]
        self.assertEqual(created["state"], "slow")

    def test_columns_that_get_queryset_defers_stay_as_they_are(self):
        deferred = Stay.objects.defer("deposit", "deposit_currency")
        self.serve(Stay, get_queryset=lambda self, request: deferred.all())
        Stay.objects.update(deposit=7, deposit_currency="CHF")
        shown = self.update(self.stay, price="11.00")
        self.assertEqual((shown["price"], shown["deposit"]), ("11.00", "7.00"))

    # What watches instances

    def test_a_field_tracker_sees_what_an_update_changes(self):
        seen = []

        def look(self, user, record, modified):
            changes = (modified.tracker.changed(), record.name, modified.name)
            seen.append(("can_update", changes))
            return True

        def prepare(self, request, record, created):
            seen.append(("prepare_record", record.tracker.has_changed("name")))

        def save(self, request, record, created):
            seen.append(("save_record", record.tracker.previous("name")))
            record.save()

        def after(instance, **options):
            seen.append(("post_save", instance.tracker.has_changed("name")))

        self.receive(models.signals.post_save, after)
        self.serve(Guest, can_update=look, prepare_record=prepare, save_record=save)
        with mock.patch.object(Guest, "changes", []):
            self.update(self.guest, name="Ida", phone=self.phone)
            self.assertEqual(Guest.changes, [{"name": "Gil"}])
        self.assertEqual(
            seen,
            [
                ("prepare_record", True),
                ("can_update", ({"name": "Gil"}, "Gil", "Ida")),
                ("save_record", "Gil"),
                ("post_save", True),
            ],
        )

    def test_a_field_tracker_sees_numbers_and_what_a_hook_changes(self):
        def prepare(self, request, record, created):
            record.name = record.name.upper()

        self.serve(Guest, prepare_record=prepare)
        with mock.patch.object(Guest, "changes", []):
            self.update(self.guest, phone=self.other_phone)
            self.assertEqual(Guest.changes, [{"name": "Gil", "phone": self.phone}])
            self.update(self.guest, phone=self.other_phone)
            self.assertEqual(len(Guest.changes), 1)

    # Records that are deleted, and stay in the table

    def delete_room(self):
        self.post(f"shop/room/{self.room.pk}/delete")
        self.assertTrue(Room.everything.get(pk=self.room.pk).is_deleted)

    def test_what_is_deleted_softly_is_outside(self):
        self.assertEqual(self.found("stay", search="attic"), [self.stay.pk])
        self.delete_room()
        path = f"shop/room/{self.room.pk}"
        for operation in ("get", "update", "delete"):
            self.post(f"{path}/{operation}", status=404)
        reply = self.post("shop/room/list")
        self.assertEqual((reply["data"], reply["total"]), ([self.shown(self.suite)], 1))
        # A filter by its pk finds what refers to it, a search inside of it does not.
        self.assertEqual(self.found("stay", room=self.room.pk), [self.stay.pk])
        self.assertEqual(self.found("stay", search="attic"), [])

    def test_others_show_what_is_deleted_softly_by_its_pk(self):
        whole = self.shown(self.stay)
        self.assertEqual(whole["room"], self.shown(self.room))
        self.delete_room()
        gone = whole | {"room": self.room.pk}
        self.assertEqual(self.shown(self.stay), gone)
        self.assertEqual(self.post("shop/stay/list")["data"], [gone])
        self.assertEqual(ajax.encoder.encode(Stay.objects.get()), gone)

    def test_what_is_deleted_softly_is_not_chosen_anew(self):
        self.delete_room()
        Stay.objects.update(room=None)
        Stay.extra_rooms.through.objects.all().delete()
        for key, sent in (("room", self.room.pk), ("extra_rooms", [self.room.pk])):
            self.assertEqual(self.refused(self.stay, **{key: sent}), [key])
        self.update(self.stay, room=self.suite.pk, extra_rooms=[self.suite.pk])

    def test_a_record_that_refers_to_what_is_deleted_softly_can_be_sent_back(self):
        self.delete_room()
        whole = self.shown(self.stay)
        self.assertEqual(whole["extra_rooms"], [self.room.pk, self.suite.pk])
        for form in (False, True):
            sent = {"room": self.room.pk, "extra_rooms": whole["extra_rooms"]}
            self.assertEqual(self.update(self.stay, form, **sent), whole)
        self.assertEqual(self.update(self.stay, **whole), whole)
        # What is left out is taken away.
        shown = self.update(self.stay, room=None, extra_rooms=[self.suite.pk])
        self.assertEqual((shown["room"], shown["extra_rooms"]), (None, [self.suite.pk]))

    # Tags of records with a UUID

    def test_records_with_a_uuid_are_tagged(self):
        made = self.post("shop/playlist", {"tags": ["a", "b"]})["data"]
        self.assertEqual([tag["name"] for tag in made["tags"]], ["a", "b"])
        playlist = Playlist.objects.get()
        self.assertEqual(self.update(playlist, **made), made)
        self.assertEqual(self.found("playlist", tags="a"), [made["pk"]])
        tags = self.update(playlist, tags=["b"])["tags"]
        self.assertEqual([tag["name"] for tag in tags], ["b"])


# --- What endpoints add to records ----------------------------------------------------

from django.db.models import Avg, Count, Exists, OuterRef, Q, Value
from django.db.models.functions import Coalesce, Length, TruncDate


class Recipe(models.Model):
    title = models.CharField(max_length=50)
    cook = models.ForeignKey(User, models.CASCADE, null=True, blank=True)
    fans = models.ManyToManyField(User, related_name="favourites", blank=True)
    created = models.DateTimeField(default=timezone.now)
    changed = models.DateTimeField(auto_now=True)
    tags = TaggableManager(blank=True)


class Ingredient(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE, related_name="ingredients")
    name = models.CharField(max_length=50)
    is_secret = models.BooleanField(default=False)


class Step(models.Model):
    ingredient = models.ForeignKey(Ingredient, models.CASCADE, related_name="steps")
    text = models.CharField(max_length=50)


class Rating(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE, related_name="ratings")
    user = models.ForeignKey(User, models.CASCADE)
    stars = models.IntegerField()


class Portrait(models.Model):
    recipe = models.OneToOneField(Recipe, models.CASCADE, related_name="portrait")
    title = models.CharField(max_length=50)


class Menu(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE)


@ajax.register(Recipe, Ingredient, Step, Rating, Portrait, Menu)
class KitchenEndpoint(ajax.ModelEndpoint):
    def can_list(self, user):
        return True


class Additions(AjaxTestCase):
    """Annotations, children, and whole members of many-to-many relations."""

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.soup = Recipe.objects.create(title="Soup", cook=cls.user)
        cls.cake = Recipe.objects.create(title="Cake")
        cls.path = f"shop/recipe/{cls.soup.pk}"
        for name in ("Water", "Salt"):
            ingredient = Ingredient.objects.create(recipe=cls.soup, name=name)
        Step.objects.create(ingredient=ingredient, text="Stir")
        cls.flour = Ingredient.objects.create(recipe=cls.cake, name="Flour")
        for user, stars in ((cls.user, 5), (cls.other, 2)):
            Rating.objects.create(recipe=cls.soup, user=user, stars=stars)
            cls.soup.fans.add(user)
        Portrait.objects.create(recipe=cls.soup, title="Bowl")

    def listed(self, sent=None):
        return self.post("shop/recipe/list", sent)["data"]

    def titles(self, sent):
        return " ".join(recipe["title"] for recipe in self.listed(sent))

    def test_annotations_are_shown_sorted_by_and_filtered_on(self):
        self.serve(
            Recipe,
            annotations={
                "ratings_count": Count("ratings"),
                "stars": Avg("ratings__stars"),
                "fans_count": Count("fans", distinct=True),
                "good": Count("ratings", filter=Q(ratings__stars__gte=3)),
                "mine": lambda request: Exists(
                    Rating.objects.filter(recipe=OuterRef("pk"), user=request.user.pk)
                ),
                "day": TruncDate("created"),
                "shout": Coalesce("title", Value("")),
            },
            sortable_by=["ratings_count", "stars", "mine"],
            list_filter=[
                "ratings_count",
                "stars__gte",
                "mine",
                "day",
                "shout__contains",
            ],
        )
        soup, cake = self.listed({"order_by": "-ratings_count"})
        self.assertEqual((soup["title"], cake["title"]), ("Soup", "Cake"))
        expected = {"ratings_count": 2, "stars": 3.5, "fans_count": 2, "good": 1}
        expected |= {"mine": True, "day": soup["created"][:10], "shout": "Soup"}
        self.assertEqual(soup, soup | expected)
        expected = {"ratings_count": 0, "stars": None, "good": 0, "mine": False}
        self.assertEqual(cake, cake | expected)
        self.assertEqual([*soup][-7:-5], ["ratings_count", "stars"])
        # In a get, in what is written, in what a function returns, and in others.
        self.assertEqual(self.shown(self.soup), soup)
        self.assertEqual(self.post(f"{self.path}/update", {})["data"], soup)
        made = self.post("shop/recipe", {"title": "Pie"})["data"]
        self.assertEqual((made["ratings_count"], made["mine"]), (0, False))
        returned = self.ask(lambda request: [self.cake, self.soup])["data"]
        self.assertEqual(returned, [cake, soup])
        menu = self.post("shop/menu", {"recipe": self.soup.pk})["data"]
        self.assertEqual(menu["recipe"], soup)
        encoded = ajax.encoder.encode(self.soup)
        self.assertEqual(encoded["ratings_count"], 2)
        self.assertNotIn("mine", encoded)
        for sent, titles in [
            ({"ratings_count": 2}, "Soup"),
            ({"ratings_count": [0, 2], "order_by": "ratings_count"}, "Cake Pie Soup"),
            ({"stars__gte": "3.5"}, "Soup"),
            ({"stars__gte": 4}, ""),
            ({"mine": True}, "Soup"),
            ({"mine": "", "order_by": "-mine"}, "Soup Cake Pie"),
            ({"day": soup["day"], "shout__contains": "ou"}, "Soup"),
            ({"order_by": "stars,mine"}, self.titles({"order_by": "stars"})),
        ]:
            with self.subTest(sent):
                self.assertEqual(self.titles(sent), titles)
        self.assertEqual(
            [*self.errors("shop/recipe/list", {"stars__gte": "x"})][0][:5], "stars"
        )
        self.client.force_login(self.other)
        Rating.objects.filter(user=self.other).delete()
        self.assertEqual(self.titles({"mine": True}), "")
        # They are never written.
        self.post(f"{self.path}/update", {"ratings_count": 9, "mine": True})
        self.assertEqual(self.shown(self.soup)["ratings_count"], 1)

    def test_fields_may_name_annotations_and_order_may_be_by_one(self):
        self.serve(
            Recipe,
            fields=["title", "ratings_count"],
            annotations={"ratings_count": Count("ratings"), "hidden": Value(1)},
            ordering=["-ratings_count"],
        )
        self.assertEqual(
            self.listed(),
            [
                {"pk": self.soup.pk, "title": "Soup", "ratings_count": 2},
                {"pk": self.cake.pk, "title": "Cake", "ratings_count": 0},
            ],
        )
        # Hooks get instances, which have them too.
        self.serve(Recipe, can_get=lambda self, user, recipe: recipe.ratings_count > 0)
        self.assertEqual([recipe["title"] for recipe in self.listed()], ["Soup"])
        with self.settings(DEBUG=True):
            spec = self.client.get("/ajax/openapi.json").json()
        recipe = spec["components"]["schemas"]["shop.recipe"]["properties"]
        self.assertIn("integer", recipe["ratings_count"]["type"])
        self.assertTrue(recipe["ratings_count"]["readOnly"])

    def test_a_get_queryset_that_joins_the_same_relation_changes_no_annotation(self):
        def get_queryset(self, request):
            return Recipe.objects.filter(ratings__stars__gte=5)

        self.serve(
            Recipe,
            annotations={
                "ratings_count": Count("ratings"),
                "fans_count": Count("fans"),
            },
            get_queryset=get_queryset,
        )
        (soup,) = self.listed()
        self.assertEqual((soup["ratings_count"], soup["fans_count"]), (2, 2))

    def test_the_checks_know_annotations_children_and_members(self):
        self.serve(
            Recipe,
            fields=["title", "fans", "ratings_count", "mine", "ingredients"],
            annotations={
                "ratings_count": Count("ratings"),
                "mine": lambda request: Value(True),
            },
            expand=["fans"],
            sortable_by=["ratings_count", "mine"],
            list_filter=["ratings_count__gte", "mine"],
            ordering=["-ratings_count"],
        )
        errors = [error for error in checks.run_checks() if error.id == "ajax.E002"]
        self.assertEqual(errors, [])
        self.serve(Recipe, list_filter=["ratings_count__regex"], expand=["tags"])
        errors = [error for error in checks.run_checks() if error.id == "ajax.E002"]
        self.assertEqual(len(errors), 2)

    def test_a_fault_of_a_function_of_the_request_is_a_logged_500(self):
        self.serve(Recipe, annotations={"odd": lambda request: Count("nothing")})
        with self.assertLogs("django.request"):
            self.post(f"{self.path}/get", status=500)

    def test_annotations_that_would_mislead_are_refused(self):
        for annotations, words in [
            ({"title": Value(1)}, "the name of an attribute"),
            ({"pk": Value(1)}, "the name of an attribute"),
            ({"ratings": Count("ratings")}, "the name of an attribute"),
            ({"save": Value(1)}, "the name of an attribute"),
            ({"marks": Value(1)}, "the name of an attribute"),
            ({"stars": models.F("ratings__stars")}, "gives several values"),
            ({"stars": Coalesce("ratings__stars", 0)}, "gives several values"),
            (
                {"stars": models.Case(models.When(ratings__stars=1, then=Value(1)))},
                "gives several values",
            ),
            (
                {"stars": 5},
                "has 'stars', which is no expression",
            ),
            ({"stars": "ratings"}, "which is no expression"),
            ({"stars": None}, "which is no expression"),
            ({"stars": Count}, "has 'stars', a class. Write an expression, such as Co"),
            ({"stars": later}, "has 'stars', an async function"),
            ({"stars": lambda: Value(1)}, "called with (request)"),
            ({"stars": lambda self, request: Value(1)}, "called with (request)"),
            ({"stars": models.F("rating")}, "Cannot resolve keyword 'rating'"),
            ({"stars": Count("rating")}, "Cannot resolve keyword 'rating'"),
            ({5: Value(1)}, "has 5, which is no name"),
            ({"two words": Value(1)}, "which is no name"),
            ({"": Value(1)}, "which is no name"),
        ]:
            with self.subTest(annotations):
                with self.assertRaisesMessage(ImproperlyConfigured, words):
                    self.serve(Recipe, annotations=annotations, marks="!")
        latest = Rating.objects.filter(recipe=OuterRef("pk")).values("stars")[:1]
        cook = models.F("cook__username")
        big = models.Case(models.When(~Q(title="") | Q(pk=1), then=Value(1)))
        annotations = {
            "latest": models.Subquery(latest),
            "cooks_name": cook,
            "big": big,
        }
        self.serve(Recipe, annotations=annotations)
        self.assertIn(self.shown(self.soup)["latest"], (2, 5))

    def test_a_function_for_an_annotation_that_everybody_could_call_is_refused(self):
        source = """
            import ajax
            from django.contrib.auth.models import Group
            from django.db.models import Value

            {}
            @ajax.register(Group)
            class GroupEndpoint(ajax.ModelEndpoint):
                annotations = {{"mine": {}}}
            """
        function = """def {}(request):
                return Value(request.user.pk)
            """
        for name, more in (("_mine", ""), ("mine_of", '\n__all__ = ["GroupEndpoint"]')):
            lines = function.format(name) + textwrap.indent(more, " " * 12)
            with self.apps(zoo=source.format(lines, name)):
                group = Group.objects.create(name=name)
                shown = self.post(f"zoo/group/{group.pk}/get")["data"]
                self.assertEqual(shown["mine"], self.user.pk)
                self.post("zoo/mine_of", status=404)
            ajax.endpoint.unregister(Group)
        listed = textwrap.indent('\n__all__ = ["mine_of"]\n', " " * 12)
        for lines in (
            function.format("mine_of"),
            "mine_of = lambda request: Value(1)\n",
            function.format("mine_of") + listed,
        ):
            words = "a function that everybody can call. Rename it to _mine_of."
            with self.assertRaisesMessage(ImproperlyConfigured, words):
                with self.apps(zoo=source.format(lines, "mine_of")):
                    ajax._autodiscover()

    def test_children_are_whole_records_in_order_without_the_key_back(self):
        self.serve(Recipe, fields=["title", "ingredients", "portrait"])
        self.serve(Ingredient, ordering=["name"])
        salt, water = self.shown(self.soup)["ingredients"]
        expected = {"pk": salt["pk"], "name": "Salt", "is_secret": False}
        self.assertEqual((salt, water["name"]), (expected, "Water"))
        soup, cake = self.listed()
        self.assertEqual(len(soup["ingredients"]), 2)
        self.assertEqual([i["name"] for i in cake["ingredients"]], ["Flour"])
        self.assertEqual(soup["portrait"]["title"], "Bowl")
        self.assertNotIn("recipe", soup["portrait"])
        self.assertIsNone(cake["portrait"])
        empty = self.post("shop/recipe", {"title": "Air"})["data"]
        self.assertEqual((empty["ingredients"], empty["portrait"]), ([], None))
        for data in (
            self.ask(lambda request: self.soup)["data"],
            ajax.encoder.encode(self.soup),
            self.post(f"{self.path}/update", soup)["data"],
        ):
            self.assertEqual(data, soup)

    def test_children_in_children_and_in_other_records_count_as_levels(self):
        self.serve(Recipe, fields=["title", "ingredients"])
        self.serve(Ingredient, fields=["name", "recipe", "steps"])
        soup = self.shown(self.soup)
        steps = [ingredient["steps"] for ingredient in soup["ingredients"]]
        self.assertEqual([len(each) for each in steps], [0, 1])
        self.assertNotIn("ingredient", steps[1][0])
        # Inside of a menu they are a level; on a cycle the key is left out.
        menu = self.post("shop/menu", {"recipe": self.soup.pk})["data"]
        self.assertEqual(len(menu["recipe"]["ingredients"]), 2)
        self.serve(Menu, expand=1)
        menu = self.shown(Menu.objects.get())
        self.assertNotIn("ingredients", menu["recipe"])
        flour = self.shown(self.flour)
        self.assertEqual(flour["recipe"], {"pk": self.cake.pk, "title": "Cake"})
        # At the top they are there, however little is expanded.
        self.serve(Recipe, expand=False)
        (flour,) = self.shown(self.cake)["ingredients"]
        self.assertEqual(flour["name"], "Flour")
        self.assertNotIn("steps", flour)

    def test_children_that_the_user_may_not_see_are_left_out(self):
        self.serve(Recipe, fields=["title", "ingredients", "portrait"])
        Ingredient.objects.filter(name="Salt").update(is_secret=True)

        def names(recipe):
            return [ingredient["name"] for ingredient in recipe["ingredients"]]

        for attributes, expected in [
            ({}, ["Water", "Salt"]),
            ({"can_get": lambda self, user, record: not record.is_secret}, ["Water"]),
            ({"get_queryset": lambda self, request: open_ingredients()}, ["Water"]),
            ({"authenticate": no}, []),
        ]:
            with self.subTest(attributes):
                self.serve(Ingredient, **{"can_get": yes, **attributes})
                self.assertEqual(names(self.shown(self.soup)), expected)
                self.assertEqual(names(self.listed()[0]), expected)
        self.serve(Portrait, can_get=no)
        self.assertIsNone(self.shown(self.soup)["portrait"])
        self.assertNotIn("portrait", ajax.encoder.encode(self.soup))

    def test_a_child_without_an_endpoint_fails_like_an_import(self):
        source = """
            import ajax
            from django.contrib.auth.models import Group
            from test_ajax import Label

            class LabelsEndpoint(ajax.ModelEndpoint):
                fields = ["logentry_set"]

            from django.contrib.contenttypes.models import ContentType
            @ajax.register(ContentType)
            class KindEndpoint(ajax.ModelEndpoint):
                fields = ["model", "permission_set"]
            """
        with self.apps(zoo=source):
            with self.assertLogs("django.request") as logs:
                self.post("shop/hello", status=500)
            self.assertIn("KindEndpoint.fields names permission_set", logs.output[0])
            advice = "no endpoint offers their get. Register auth.Permission"
            with self.assertRaisesMessage(SystemCheckError, advice):
                call_command("check")

    def test_a_child_whose_endpoint_offers_no_get_fails_like_an_import(self):
        source = """
            import ajax
            from django.contrib.auth.models import Permission
            from django.contrib.contenttypes.models import ContentType

            @ajax.register(Permission)
            class RightEndpoint(ajax.ModelEndpoint):
                operations = ["list"]

            @ajax.register(ContentType)
            class KindEndpoint(ajax.ModelEndpoint):
                fields = ["model", "permission_set"]
            """
        with self.apps(zoo=source):
            advice = 'Add "get" to operations of RightEndpoint'
            with self.assertRaisesMessage(SystemCheckError, advice):
                call_command("check")

    def test_members_that_expand_names_are_whole_or_a_pk(self):
        self.serve(Recipe, expand=["fans"])
        ann, bob = self.shown(self.soup)["fans"]
        self.assertEqual(ann, {"pk": self.user.pk, "username": "ann"})
        self.assertEqual(self.listed()[0]["fans"], [ann, bob])
        self.assertEqual(self.shown(self.soup)["cook"], self.user.pk)
        # What was read can be sent back.
        whole = self.shown(self.soup)
        self.assertEqual(self.post(f"{self.path}/update", whole)["data"], whole)

        def only_ann(self, request):
            return User.objects.filter(username="ann")

        self.serve(User, get_queryset=only_ann, fields=["username"])
        self.assertEqual(self.shown(self.soup)["fans"], [ann, self.other.pk])
        self.serve(User, authenticate=no)
        pks = [self.user.pk, self.other.pk]
        self.assertEqual(self.shown(self.soup)["fans"], pks)
        self.serve(Recipe, expand=True)
        self.assertEqual(self.shown(self.soup)["fans"], pks)

    def test_each_addition_costs_a_query_and_none_per_row(self):
        def count():
            self.listed()
            with CaptureQueriesContext(connection) as queries:
                self.listed()
            return len(queries)

        self.serve(Recipe, expand=["cook"])
        before = count()
        self.serve(
            Recipe,
            fields=[
                "title",
                "cook",
                "tags",
                "fans",
                "stars",
                "ingredients",
                "portrait",
            ],
            annotations={"stars": Avg("ratings__stars")},
            expand=["cook", "fans"],
            list_per_page=100,
        )
        additions = count()
        # Ingredients, portraits, and the fans besides their pks.
        self.assertEqual(additions, before + 3)
        for number in range(30):
            recipe = Recipe.objects.create(title=str(number), cook=self.user)
            Ingredient.objects.create(recipe=recipe, name="x")
            recipe.fans.add(self.user)
        self.assertEqual(count(), additions)


def open_ingredients():
    return Ingredient.objects.filter(is_secret=False)


class Versions(AjaxTestCase):
    """`version_field`: a word when somebody else changed the record meanwhile."""

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.soup = Recipe.objects.create(title="Soup")
        cls.path = f"shop/recipe/{cls.soup.pk}"

    def setUp(self):
        super().setUp()
        self.serve(Recipe, version_field="changed")

    def test_an_update_or_delete_of_another_version_is_a_409_with_the_current(self):
        read = self.shown(self.soup)
        theirs = self.post(f"{self.path}/update", read | {"title": "Stew"})["data"]
        self.assertNotEqual(theirs["changed"], read["changed"])
        for operation in ("update", "delete"):
            with self.subTest(operation):
                sent = read | {"title": "Broth"}
                reply = self.post(f"{self.path}/{operation}", sent, status=409)
                message = "Somebody else has changed this record."
                self.assertEqual(reply["data"]["message"], message)
                self.assertEqual(reply["current"], theirs)
        self.assertEqual(self.shown(self.soup), theirs)
        # Theirs seen, mine kept.
        mine = {"title": "Broth", "changed": theirs["changed"]}
        kept = self.post(f"{self.path}/update", mine)["data"]
        self.assertEqual(kept["title"], "Broth")
        # Who does not send it is not asked.
        self.post(f"{self.path}/update", {"title": "Soup"})
        errors = self.errors(f"{self.path}/update", {"changed": "x"})
        self.assertEqual([*errors], ["changed"])
        version = self.shown(self.soup)["changed"]
        self.assertEqual(self.errors(f"{self.path}/delete", {"changed": "x"}), errors)
        self.post(f"{self.path}/delete", {"changed": version})

    def test_it_is_asked_after_the_permission_and_before_the_errors(self):
        old = {"changed": "2020-01-01T00:00:00Z"}
        bad = {"title": "", **old}
        self.assertIn("current", self.post(f"{self.path}/update", bad, status=409))
        self.serve(Recipe, can_update=no, can_delete=no)
        for operation in ("update", "delete"):
            reply = self.post(f"{self.path}/{operation}", bad, status=403)
            self.assertNotIn("current", reply)
        self.serve(Recipe, can_update=yes, can_get=no)
        reply = self.post(f"{self.path}/update", old, status=409)
        self.assertEqual(reply["current"], {"pk": self.soup.pk})

    def test_each_change_of_relations_and_tags_makes_a_new_version_once(self):
        saved = []

        def save_record(self, request, record, created):
            saved.append(created)
            record.save()

        self.serve(Recipe, save_record=save_record)
        versions = [self.shown(self.soup)["changed"]]
        for path, sent, count in [
            ("update", {"fans": [self.user.pk]}, 1),
            ("update", {"tags": ["a"]}, 1),
            ("tags/add", {"tags": ["b"]}, 1),
            ("tags/clear", {}, 1),
            ("update", {"title": "Stew", "fans": [], "tags": ["c"]}, 1),
            ("update", {}, 0),
        ]:
            with self.subTest(path, sent=sent):
                saved.clear()
                self.post(f"{self.path}/{path}", sent)
                self.assertEqual(saved, [False] * count)
                versions.append(self.shown(self.soup)["changed"])
        self.assertEqual(len({*versions}), 6)

    def test_a_counter_of_the_models_own_save_will_do(self):
        self.serve(Specimen, version_field="integer")
        specimen = Specimen.objects.create(integer=1)
        path = f"shop/specimen/{specimen.pk}"

        def save(record, **options):
            record.integer += 1
            models.Model.save(record, **options)

        with mock.patch.object(Specimen, "save", save):
            reply = self.post(f"{path}/update", {"integer": 1, "char": "a"})
            self.assertEqual(reply["data"]["integer"], 2)
            self.assertNotIn("ignored", reply)
            self.post(f"{path}/update", {"integer": "1", "char": "b"}, status=409)

    def test_a_version_that_is_not_shown_is_refused(self):
        for name, attributes, message in [
            ("fans", {}, "names 'fans', which is no column of the model"),
            ("pk", {}, "names 'pk', which is no column of the model"),
            ("cook__username", {}, "which is no column of the model"),
            ("nothing", {}, "which is no column of the model"),
            ("chnaged", {}, "which is no column of the model. Did you mean changed?"),
            ("cook_id", {}, "which is no column of the model. Did you mean cook?"),
            (
                "changed",
                {"fields": ["title"]},
                "names 'changed', which clients do not see",
            ),
            ("changed", {"exclude": ["changed"]}, "which clients do not see"),
        ]:
            with self.subTest(name, **attributes):
                with self.assertRaisesMessage(ImproperlyConfigured, message):
                    self.serve(Recipe, version_field=name, **attributes)

    def test_a_version_that_stays_as_it_was_created_is_refused(self):
        created = Recipe._meta.get_field("created")
        with mock.patch.object(created, "auto_now_add", True):
            message = "'created', which stays as it was when the record was created"
            with self.assertRaisesMessage(ImproperlyConfigured, message):
                self.serve(Recipe, version_field="created")

    def test_it_is_described(self):
        with self.settings(DEBUG=True):
            paths = self.client.get("/ajax/openapi.json").json()["paths"]
        for operation in ("update", "delete"):
            call = paths[f"/shop/recipe/{{pk}}/{operation}.json"]["post"]
            schema = call["requestBody"]["content"]["application/json"]["schema"]
            version = schema["properties"]["changed"]
            self.assertEqual(version["x-ajax"], {"version": True})
            self.assertNotIn("changed", schema["required"])

    def test_a_tags_command_that_changes_nothing_makes_no_new_version(self):
        self.soup.tags.add("a", "b")
        version = self.shown(self.soup)["changed"]
        for command, sent in [
            ("add", {"tags": "a"}),
            ("remove", {"tags": "c"}),
            ("set", {"tags": ["b", "a"]}),
        ]:
            with self.subTest(command):
                self.post(f"{self.path}/tags/{command}", sent)
                self.assertEqual(self.shown(self.soup)["changed"], version)
        self.post(f"{self.path}/tags/clear")
        cleared = self.shown(self.soup)["changed"]
        self.assertNotEqual(cleared, version)
        self.post(f"{self.path}/tags/clear")
        self.assertEqual(self.shown(self.soup)["changed"], cleared)


# --- Tags -----------------------------------------------------------------------------


class Hue(taggit.TagBase):
    """A tag model of a project, whose names are short."""

    name = models.CharField(max_length=9, unique=True)


class HueItem(taggit.CommonGenericTaggedItemBase, taggit.ItemBase):
    """A text for the key, as in taggit's documentation, and tags of a project."""

    object_id = models.CharField(max_length=50, db_index=True)
    tag = models.ForeignKey(Hue, models.CASCADE, related_name="items")


class UuidItem(taggit.GenericUUIDTaggedItemBase, taggit.TaggedItemBase):
    pass


class Playlist(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    tags = TaggableManager(through=UuidItem)


class Genre(models.Model):
    slug = models.SlugField(primary_key=True, default=uuid.uuid4)
    tags = TaggableManager(through=HueItem)


class Spark(models.Model):
    tags = TaggableManager(through=HueItem, ordering=["-name"])


class Clip(Spark):
    """Its key is not that of its parent."""

    number = models.IntegerField(primary_key=True)
    spark = models.OneToOneField(Spark, models.CASCADE, parent_link=True)


ajax.endpoint.register([Playlist, Genre, Spark, Clip], OpenEndpoint)


class Tags(AjaxTestCase):
    def call(self, record, command, tags=None, manager="tags", **extra):
        path = f"shop/{record._meta.model_name}/{record.pk}/{manager}/{command}"
        sent = None if tags is None else {"tags": tags}
        return self.post(path, sent, **extra)["data"]

    def names(self, *args, **extra):
        return " ".join(sorted(tag["name"] for tag in self.call(*args, **extra)))

    def test_each_command_answers_all_tags(self):
        for command, tags, names in (
            ("add", ["a", "b"], "a b green red"),
            ("add", "b, c", "a b c green red"),
            ("remove", "a b none", "c green red"),
            ("remove", [], "c green red"),
            ("add", '"d e" f', "c d e f green red"),
            ("clear", None, ""),
            ("set", [{"name": "x"}, "c"], "c x"),
            ("set", [], ""),
            ("set", "p q", "p q"),
            ("set", ["Big Band"], "Big Band"),
        ):
            with self.subTest(command, tags=tags):
                self.assertEqual(self.names(self.article, command, tags), names)
        tag = self.article.tags.get()
        shown = [{"pk": tag.pk, "name": "Big Band", "slug": "big-band"}]
        self.assertEqual(self.call(self.article, "add", []), shown)
        self.assertEqual(self.shown(self.article)["tags"], shown)
        for sent in ({"tags": "a,b"}, {"tags": ["a", "b"]}, {"tags[]": ["a", "b"]}):
            data = self.post(f"{self.path}/tags/set", sent, form=True)["data"]
            self.assertEqual({tag["name"] for tag in data}, {"a", "b"})

    def test_wrong_tags_are_refused(self):
        many = [*map(str, range(101))]
        wrong = (None, 7, {}, [7], [None], [{}], [["a"]], ["x" * 101], many)
        for command in ("add", "remove", "set"):
            path = f"{self.path}/tags/{command}"
            for sent in ({}, *({"tags": tags} for tags in wrong)):
                with self.subTest(command, sent=str(sent)[:30]):
                    self.assertEqual([*self.errors(path, sent)], ["tags"])
        self.assertEqual([*self.errors(path, {"tags": "a", "tag": "a"})], ["tag"])
        self.assertCountEqual(self.article.tags.names(), ["red", "green"])
        # The tag model of a project validates its names.
        path = f"shop/spark/{Spark.objects.create().pk}/tags/add"
        self.assertEqual([*self.errors(path, {"tags": ["aquamarine"]})], ["tags"])
        self.post(path, {"tags": ["turquoise"]})

    def test_a_hidden_manager_is_a_404_and_a_readonly_one_has_only_similar(self):
        writes, path = ("add", "remove", "set", "clear"), "shop/article/list"
        for options, excluded, gone, status in (
            ({"exclude": ["tags"]}, [], (*writes, "similar"), 400),
            ({}, ["tags"], (*writes, "similar"), 400),
            ({"readonly_fields": ["tags"]}, [], writes, 200),
        ):
            with self.subTest(options=options):
                self.serve(Article, **options)
                self.register_encoder(Article, ajax.ExcludeEncoder(exclude=excluded))
                for command, tags in itertools.product(gone, ("blue", 7, [])):
                    self.call(self.article, command, tags, status=404)
                reply = self.post(path, {"tags": "red"}, status=status)
                if status == 400:
                    self.assertEqual(reply["errors"], {"tags": ["Unknown key."]})
                if "similar" not in gone:
                    self.assertEqual(self.call(self.article, "similar"), [])
                self.doCleanups()
        self.assertCountEqual(self.article.tags.names(), ["red", "green"])

    def test_similar_orders_by_shared_tags_and_gives_a_page(self):
        made = [Track.objects.create(title=title) for title in "ABCDEF"]
        for count, track in enumerate(made[:5]):
            track.tags.add("alien", *"wxyz"[:count])
        made[5].tags.add(*"wxyz")
        # The same tags of another model's record with the same pk do not count.
        Specimen.objects.create(pk=made[0].pk).tags.add(*"wxyz")
        no_d, no_e = Track.objects.exclude(title="D"), Track.objects.exclude(title="E")
        for options, titles in (
            ({}, "EDC"),
            ({"can_get": lambda self, user, record: record in no_e}, "DC"),
            ({"get_queryset": lambda self, request: no_d.all()}, "ECB"),
        ):
            self.serve(Track, list_per_page=3, **options)
            similar = self.call(made[5], "similar")
            self.assertEqual("".join(track["title"] for track in similar), titles)
            self.doCleanups()
        self.assertEqual(similar[1], self.shown(made[2]))

    def test_two_managers_of_a_model_keep_apart(self):
        track, other = [Track.objects.create(title=title) for title in "AB"]
        self.assertEqual(self.names(track, "add", "loud"), "loud")
        self.assertEqual(self.names(track, "add", "sad", manager="moods"), "sad")
        other.moods.add("sad", "loud")
        data = self.shown(track)
        names = [[tag["name"] for tag in data[key]] for key in ("tags", "moods")]
        self.assertEqual(names, [["loud"], ["sad"]])
        self.assertEqual(self.call(track, "similar"), [])
        similar = self.call(track, "similar", manager="moods")
        self.assertEqual(similar, [self.shown(other)])
        reply = self.post("shop/track/list", {"moods": ["sad"], "tags": ["loud"]})
        self.assertEqual(reply["data"], [data])

    def test_tags_work_with_each_kind_of_through_model_and_key(self):
        for model in (Playlist, Genre, Spark, LiveTrack):
            with self.subTest(model.__name__):
                first, second = [model.objects.create() for _number in "ab"]
                self.assertEqual(self.names(first, "add", "x y z"), "x y z")
                self.assertEqual(self.names(second, "set", ["y"]), "y")
                shown = self.shown(second)
                self.assertEqual([tag["name"] for tag in shown["tags"]], ["y"])
                if model is Spark:  # Its manager orders tags.
                    tags = self.shown(first)["tags"]
                    self.assertEqual([tag["name"] for tag in tags], ["z", "y", "x"])
                self.assertEqual(self.call(first, "similar"), [shown])
                self.assertEqual(self.names(first, "remove", "y z"), "x")
                path = f"shop/{model._meta.model_name}/list"
                self.assertEqual(self.post(path, {"tags": ["y", "q"]})["data"], [shown])
                self.assertEqual(self.names(first, "clear"), "")

    def test_the_case_of_tags_matters_unless_project_or_database_ignore_it(self):
        self.article.tags.set(["Jazz"])
        for insensitive in (True, False):
            with self.settings(TAGGIT_CASE_INSENSITIVE=insensitive):
                is_one = insensitive or IGNORES_CASE
                articles = self.post("shop/article/list", {"tags": ["jAZZ"]})["data"]
                self.assertEqual(len(articles), is_one)
                add = self.names(self.article, "add", ["jazz", "JAZZ"])
                self.assertEqual(add, "Jazz" if is_one else "JAZZ Jazz jazz")

    def test_a_list_of_parents_finds_the_tags_of_their_children(self):
        track, live = Track.objects.create(title="A"), LiveTrack.objects.create()
        track.tags.add("loud")
        live.tags.add("sad", "loud")
        live.moods.add("blue")
        # The same tags of another model's record with the same pk do not count.
        Specimen.objects.create(pk=track.pk).tags.add("sad")
        for model, sent, records in (
            ("track", {"tags": "loud"}, [track, live]),
            ("track", {"tags": ["sad"]}, [live]),
            ("track", {"moods": "blue"}, [live]),
            ("livetrack", {"tags": "loud"}, [live]),
        ):
            with self.subTest(model, sent=sent):
                self.serve(Track, can_list=yes)
                self.serve(LiveTrack, can_list=yes)
                data = self.post(f"shop/{model}/list", sent)["data"]
                self.assertCountEqual(
                    [record["pk"] for record in data], [record.pk for record in records]
                )
                self.doCleanups()
        # The parent's key is found where the child has a key of its own.
        Spark.objects.create()
        clip = Clip.objects.create(number=77)
        clip.tags.add("red")
        for model, pk in (("spark", clip.spark_id), ("clip", 77)):
            data = self.post(f"shop/{model}/list", {"tags": "red"})["data"]
            self.assertEqual([record["pk"] for record in data], [pk])


# --- Security -------------------------------------------------------------------------

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.views.decorators.csrf import csrf_exempt


def with_and_without_middleware(test):
    """Run a test in a new browser, with Django's CSRF middleware and without."""
    bare = [name for name in settings.MIDDLEWARE if "csrf" not in name]

    @functools.wraps(test)
    def both(self):
        for names in (settings.MIDDLEWARE, bare):
            with self.subTest(names), self.settings(MIDDLEWARE=names):
                self.browse()
                test(self)

    return both


class Account(AbstractBaseUser):
    """A user who logs in by e-mail, in a project without staff and permissions."""

    email = models.EmailField(unique=True)
    objects = BaseUserManager()

    USERNAME_FIELD = "email"


class Security(AjaxTestCase):
    TOKEN = {"HTTP_X_CSRFTOKEN": "a" * 32}

    def browse(self, user=None):
        """Use a new browser, for which CSRF is checked."""
        self.client = Client(enforce_csrf_checks=True, raise_request_exception=False)
        if user:
            self.client.force_login(user)

    def fresh(self, path="shop/hello", **extra):
        """Return the token in a refusal, whose message says how to send it."""
        reply = self.post(path, status=403, **extra)
        header = settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-")
        names = f"(?i)csrf.*{settings.CSRF_COOKIE_NAME}.* {header}"
        self.assertRegex(reply["data"]["message"], names)
        self.assertRegex(str(reply["csrf"]), "^[a-zA-Z0-9]{64}$")
        return reply["csrf"]

    @with_and_without_middleware
    def test_every_caller_needs_a_token_and_visitors_too(self):
        for user in (None, self.user):
            self.browse(user)
            for path in (
                "shop/hello",
                "shop/whoami",
                "shop/contactform",
                "shop/category",
                "shop/article/count",
                f"{self.path}/get",
                f"{self.path}/tags/clear",
            ):
                with self.subTest(path, user=user):
                    reply = self.post(path, status=403)
                    self.assertIn("CSRF", reply["data"]["message"])
            self.post("shop/nothing", status=404)

    @with_and_without_middleware
    def test_a_refusal_brings_a_fresh_token_and_its_cookie(self):
        for held in (None, "a" * 32, "junk"):
            for junk in ("b" * 32, "short", "\xe9\n\0"):
                with self.subTest(held, sent=junk):
                    self.browse()
                    if held:
                        self.client.cookies["csrftoken"] = held
                    tokens = [self.fresh(), self.fresh(HTTP_X_CSRFTOKEN=junk)]
                    self.assertNotEqual(*tokens)
                    for token in tokens:
                        self.post("shop/hello", HTTP_X_CSRFTOKEN=token)
                        sent = {"csrfmiddlewaretoken": token, "name": "you"}
                        self.post("shop/hello", sent, form=True)
                    if held == "a" * 32:  # Other open pages still hold it.
                        self.post("shop/hello", **self.TOKEN)

    @with_and_without_middleware
    def test_pages_of_other_origins_are_refused_with_any_token(self):
        elsewhere = {"HTTP_ORIGIN": "https://evil.example"}
        for extra in (
            elsewhere,
            {"HTTP_ORIGIN": "null"},
            {"secure": True},
            {"secure": True, "HTTP_REFERER": "https://evil.example/"},
            {"secure": True, "HTTP_REFERER": "http://testserver/"},
        ):
            self.client.cookies["csrftoken"] = "a" * 32
            for token in ({}, self.TOKEN):
                with self.subTest(extra, token=token):
                    reply = self.post("shop/hello", status=403, **extra, **token)
                    self.assertRegex(reply["data"]["message"], "Origin|Referer")
                    self.assertIs(reply["csrf"], True)
        here = {"secure": True, "HTTP_REFERER": "https://testserver/page/"}
        self.post("shop/hello", **here, **self.TOKEN)
        with self.settings(CSRF_TRUSTED_ORIGINS=["https://evil.example"]):
            self.post("shop/hello", **elsewhere, **self.TOKEN)

    @with_and_without_middleware
    def test_a_page_works_after_a_login_wherever_the_token_is_kept(self):
        for kept in [
            {},
            {"CSRF_COOKIE_HTTPONLY": True},
            {"CSRF_USE_SESSIONS": True},
            {"CSRF_COOKIE_NAME": "crumb", "CSRF_HEADER_NAME": "HTTP_X_STAMP"},
        ]:
            header = kept.get("CSRF_HEADER_NAME", "HTTP_X_CSRFTOKEN")
            with self.subTest(kept), self.settings(**kept):
                self.browse()
                page = self.client.get("/token/").content.decode()
                # Without the middleware the page sets no cookie.
                if "django.middleware.csrf.CsrfViewMiddleware" in settings.MIDDLEWARE:
                    self.post("shop/hello", **{header: page})
                    self.post("shop/hello", {"csrfmiddlewaretoken": page}, form=True)
                first = self.fresh()
                self.ask(lambda request: login(request, self.other), **{header: first})
                second = self.fresh("shop/whoami", **{header: first})
                reply = self.post("shop/whoami", **{header: second})
                self.assertEqual(reply["data"], {"username": "bob"})

    @with_and_without_middleware
    def test_csrf_exempt_exempts_one_endpoint_only(self):
        source = """
            import ajax
            from django.views.decorators.csrf import csrf_exempt
            bell = csrf_exempt(lambda request: "rings")
            class Door(ajax.BaseEndpoint):
                __call__ = csrf_exempt(lambda self, request: "opens")
            door = Door()
        """
        self.browse(self.user)
        with self.apps(house=source):
            self.assertEqual(self.post("house/bell")["data"], "rings")
            self.assertEqual(self.post("house/door")["data"], "opens")
            self.fresh("shop/hello")
        self.serve(Category, ring=csrf_exempt(lambda self, request: "rings"))
        self.assertEqual(self.post("shop/category/ring")["data"], "rings")
        self.fresh("shop/category/list")

    def test_no_other_name_of_a_class_can_be_called(self):
        anywhere = {"get", "update", "delete", "publish", "count"}
        commands = {"add", "remove", "set", "clear", "similar"}
        shown = self.shown(self.article)
        for path_, names, offered in [
            ("shop/article/{}", dir(ArticleEndpoint), anywhere | {"create", "list"}),
            (f"{self.path}/{{}}", dir(ArticleEndpoint), anywhere),
            (f"{self.path}/{{}}/add", dir(Article), {"tags"}),
            (f"{self.path}/tags/{{}}", dir(self.article.tags), commands),
        ]:
            for name in {*names} - offered:
                with self.subTest(path_, name=name):
                    reply = self.post(path_.format(name), status=404)
                    self.assertEqual(reply["data"]["message"], NO_OPERATION)
        for name in ("get", "update", "delete"):
            reply = self.post(f"shop/article/{name}", status=400)
            message = "This operation needs a record. Add its pk to the path."
            self.assertEqual(reply["data"]["message"], message)
        self.assertEqual(self.shown(self.article), shown)

    def test_no_key_from_a_client_becomes_an_argument(self):
        valid = {"category": self.news.pk, "title": "A", "price": 1}
        keys = """_connector _negated _state self request using *args force_insert **
            category_id category__title secret__startswith author__password __class__"""
        for path, sent in [
            ("shop/article", valid),
            ("shop/article/list", {}),
            (f"{self.path}/update", {}),
            (f"{self.path}/tags/add", {"tags": "a"}),
        ]:
            for key in keys.split():
                with self.subTest(path, key=key):
                    self.assertEqual(list(self.errors(path, {**sent, key: 1})), [key])

    # Users that are not Django's own

    @override_settings(AUTH_USER_MODEL="shop.Account")
    def test_a_user_model_needs_neither_is_staff_nor_has_perm(self):
        account = Account(email="cat@example.com")
        account.set_password("cream")
        account.save()
        path_ = f"shop/account/{account.pk}"
        self.assertTrue(self.client.login(email=account.email, password="cream"))
        for name in ("", "explorer.js", "openapi.json"):
            for debug, status in [(True, 200), (False, 404)]:
                with self.subTest(name, debug=debug), self.settings(DEBUG=debug):
                    response = self.client.get(f"/ajax/{name}")
                    self.assertEqual(response.status_code, status)
        self.serve(Account, fields=["email"])
        self.assertEqual(self.shown(account)["email"], account.email)
        for call in ("shop/account", f"{path_}/update", f"{path_}/delete"):
            with self.subTest(call), self.settings(DEBUG=True):
                reply = self.post(call, {"email": "dog@example.com"}, status=403)
                self.assertEqual(reply["data"]["message"], "You may not do this.")
                self.assertIn("extend PermissionsMixin", reply["hint"])
        self.serve(Account, require_permissions=False)
        self.post(f"{path_}/update", {"email": "dog@example.com"})
        self.assertEqual(self.shown(account)["email"], "dog@example.com")
        self.post(f"{path_}/delete")

    def test_without_the_middleware_that_sets_it_a_request_has_no_user(self):
        supplier = Supplier.objects.create(name="Acme")
        offer = Offer.objects.create(article=self.article, supplier=supplier)
        for names in ([], settings.MIDDLEWARE[:1]):
            with self.subTest(names), self.settings(MIDDLEWARE=names):
                self.client = Client()
                data = self.ask(lambda request: offer)["data"]
                pks = (data["article"], data["supplier"])
                self.assertEqual(pks, (self.article.pk, supplier.pk))
                self.serve(Note, authenticate=no)
                for path_ in ("shop/whoami", "shop/supplier", "shop/note/list"):
                    reply = self.post(path_, status=403)
                    self.assertEqual(reply["data"]["message"], "Please log in.")
                self.serve(Category, authenticate=yes)
                self.post(f"shop/category/{self.news.pk}/get")
                reply = self.post("shop/category", {"title": "A"}, status=403)
                self.assertEqual(reply["data"]["message"], "You may not do this.")
                with self.settings(DEBUG=True):
                    spec = self.client.get("/ajax/openapi.json").json()
                self.assertEqual(spec["x-ajax"]["you"], "You are not logged in.")


# --- Fuzz -----------------------------------------------------------------------------

from urllib.parse import unquote, urlencode

import hypothesis
from django.utils.dateparse import parse_duration
from hypothesis import strategies as st

JSON_TYPE, FORM_TYPE, MULTIPART = Requests.JSON, Requests.FORM, Requests.MULTIPART

#: Texts that are easily misread, or cannot be stored.
ODD_TEXTS = [
    "", " ", "\0", "\ud800", "a\udfffb", "\ufeff", "\u202e", "e\u0301", "\u0661", "²",
    "Ⅷ", "'\"<b>;--", "%00", "%", "_", "\\", "NaN", "sNaN", "-inf", "1e999", "-0", "+1",
    "1_0", "0x1", "1e1000000", "9" * 19, "9" * 4000, "9" * 5000, "true", "null", "on",
    "[", "{}", '["\\u0000"]', "[1e999]", '{"a": 1, "a": 2}', "[" * 65 + "]" * 65, '"a',
    "0001-01-01", "9999-12-31", "9999-99-99", "0001-01-01T00:00:00+23:59", "24:00",
    "9999-12-31T23:59:59.999999-14:00", "0001-01-02T00:00Z", "9999-12-30T23:59:59Z",
    "2024-W01-1", "2024-05-06T07:08:09+99:99", "-1", "0", "12:00+01:00", "23:59:60",
    "999999999 23:59:59", "-999999999", "P99999999999D", "-P1DT1S", "P1Y", "1e-400",
    "::1", "::ffff:1.2.3.4", "fe80::1%1", "1.2.3.4\n", "urn:uuid:" + "0" * 32, "{0}",
    "aGk=", "aGk", "=", "=\xe9", "a" * 300, "é" * 3000, "a " * 11, "a,b", ",", "-char",
    "--char", ",".join(["char"] * 11), "integer,-moment", "a", "x@example.com", "de",
    "http://[", "http://a.example", "http://\u2100.example", "../../x", "\ufffd",
    "  ", "\t\n", "\u3000", "\x85", " a", "b ", '["a", "b"]', '["b", " "]', "[]", "[1]",
    '[{"name": "a"}]', '[{"pk": 1}]', "[a] b", "99999999999999.99", "1" * 16 + ".5",
    "12:00Z", "\r\n", "a\r\nb", '"null"', '""',
]  # fmt: skip
ODD_VALUES = [
    *ODD_TEXTS, None, True, False, 0, 1, -1, -0.0, 1.5, 1e308, 5e-324, 2**31, 2**53,
    2**63, -(2**63) - 1, 10**400, [], {}, [None], [[]], [{}], [[], 1], {"pk": None},
    {"pk": [1]}, {"pk": {"pk": 1}}, {"name": "a"}, [{"name": 1}], {"a": {"b": "\0"}},
    [*range(101)], [1] * 1001, [["-"]], [True], [1.5, "a"],
    json.loads("[" * 70 + "]" * 70),
]  # fmt: skip
ODD_TYPES = st.sampled_from([
    "", ";", "\xe9", "text/html", "Application/JSON; charset=UTF-8", "multipart/mixed",
    JSON_TYPE, f"{JSON_TYPE}x", f"{JSON_TYPE}; charset=utf-16", FORM_TYPE, MULTIPART,
    f"{FORM_TYPE}; charset=cp037", f"{MULTIPART}; charset=utf-7", "multipart/form-data",
    "multipart/form-data; boundary=\xe9",
])  # fmt: skip
ODD_BODIES = st.binary(max_size=9) | st.sampled_from([
    b"", b"[]", b"null", b"\0", b"\xff\xfe", b"{" * 5000, b"[" * 100_000, b"a=1&a=2",
    b"=&=&%", b"--x", b"--x\r\n\r\n\r\n--x--", b'{"a": NaN}', b'{"a": 1e999}', b"1e999",
    b'{"tags": "a", "tags": "b"}', b'{"a": "\\ud800"}', b"a" * 300_000, b"&" * 2000,
    b"--x\r\nContent-Disposition: form-data; name=title; filename*=no''%ff",
    b'--x\r\nContent-Disposition: form-data; name="\0"\r\n\r\n\xff\r\n--x--',
    b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\na\r\n--x--",
    b'{"__class__": 1, "pk": [], "id": {}}', b"title[]=%ED%A0%80", b'"text"', b"1",
])  # fmt: skip
HEADERS = """CONTENT_LENGTH QUERY_STRING REMOTE_ADDR HTTP_ACCEPT HTTP_ACCEPT_LANGUAGE
    HTTP_COOKIE HTTP_X_CSRFTOKEN HTTP_ORIGIN HTTP_HOST HTTP_REFERER HTTP_RANGE
    HTTP_AUTHORIZATION HTTP_CONTENT_ENCODING HTTP_X_HTTP_METHOD_OVERRIDE""".split()
ODD_HEADERS = st.text(st.characters(max_codepoint=255), max_size=9) | st.sampled_from([
    "", "\xff", "a" * 9000, "'\"<b>;=,", "-5", "1.5", "%00", "\xe2\x80\xa8", "²",
    "csrftoken=\xff; sessionid=", "csrftoken=junk; sessionid=%00",
])  # fmt: skip
ODD_METHODS = st.sampled_from("GET HEAD PUT OPTIONS post \xe9 GET\0".split(" "))

odd_texts = st.text(max_size=6) | st.sampled_from(ODD_TEXTS)
plain_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)
plain_texts |= st.text(st.sampled_from(" \t\r\n\ufffd\u2003a"), max_size=4)
#: Texts of JSON lists, of which tags and members can be made.
list_texts = st.lists(plain_texts | st.integers(0, 3), max_size=3).map(json.dumps)
digits = st.integers(-(10**30), 10**30)
long_decimals = st.builds(
    lambda n, places: str(Decimal(n).scaleb(-places)), digits, st.integers(0, 3)
)
pieces = odd_texts.map(lambda text: quote(text, "", errors="surrogatepass"))
pieces |= st.sampled_from(
    """.. . %00 %0A %2F %FF %ED%A0%80 %20 '"<b> __class__ None -1 1e9 ; %25s \\ é tags
    pk list get 1.json %D9%A1 0 00 +1 1_0 %31 a%0Ab 99999999999999999999""".split()
)
offsets = st.integers(-1439, 1439).map(lambda n: datetime.timedelta(minutes=n))
moments = st.datetimes(timezones=st.none() | offsets.map(datetime.timezone))
#: What fits a field, by the types or the format that openapi.json says it has.
FITTING_VALUES = {
    "string": plain_texts,
    "boolean": st.booleans(),
    "integer": st.integers(-9, 9) | st.integers(),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "date": st.dates().map(str),
    "time-local": st.times().map(str),
    "date-time": moments.map(str) | st.sampled_from([sent for sent, _within in ENDS]),
    "duration": st.timedeltas().map(str),
    "uuid": st.uuids().map(str),
    "decimal": st.decimals("-999.99", "999.99", places=2).map(str) | long_decimals,
    "email": st.sampled_from(["x@example.com", "'@a.example", '"a b"@[::1]']),
    "byte": st.sampled_from(["aGk=", "AAAAAA==", ""]),
    "binary": st.binary(max_size=4),
}
anything = st.sampled_from(
    [
        st.sampled_from(["\0", "\ud800", 2**63, "1e999", 1e308]),
        st.sampled_from(ODD_VALUES),
        st.one_of(*FITTING_VALUES.values()),
    ]
).flatmap(lambda values: values)

#: How to read the formats of openapi.json that jsonschema does not check by itself.
FORMAT_READERS = {
    "time-local": datetime.time.fromisoformat,
    "decimal": Decimal,
    "duration": parse_duration,
    "byte": base64.b64decode,
}


def make_format_checker():
    def can_read(read, value):
        return value is None or read(value) is not None

    checker = jsonschema.FormatChecker(["date", "date-time", "email", "uuid"])
    for name, read in FORMAT_READERS.items():
        add = checker.checks(name, (ArithmeticError, ValueError))
        add(functools.partial(can_read, read))
    return checker


class Call(typing.NamedTuple):
    """A request as `Fuzz` makes it, and the world that it is made in."""

    path: str
    body: bytes = b"{}"
    type: str = JSON_TYPE
    method: str = "POST"
    headers: dict = {}
    user: str | None = "ann"
    world: str = "usual"
    is_atomic: bool = False
    is_debug: bool = False
    #: Whether a signal's receiver refuses each write after it was made.
    is_refused: bool = False


def as_json(data):
    return json.dumps(data, default=bytes.hex).encode(), JSON_TYPE


def as_texts(data):
    """Yield keys with texts, or a file's bytes, as a form would send them."""
    for key, value in data.items():
        values = value if isinstance(value, list) else [value]
        for one in values:
            if not isinstance(one, str | bytes):
                one = json.dumps(one, default=bytes.hex)
            yield key, one


def as_form(data):
    texts = list(as_texts(data))
    return urlencode(texts, errors="surrogatepass").encode(), FORM_TYPE


def as_multipart(data):
    body = ""
    for key, value in as_texts(data):
        body += f'--x\r\nContent-Disposition: form-data; name="{key}"'
        if isinstance(value, bytes):
            body += f'; filename="{key}.txt"'
            value = value.decode("latin-1")
        body += f"\r\n\r\n{value}\r\n"
    return f"{body}--x--\r\n".encode(errors="surrogatepass"), MULTIPART


def as_json_part(data):
    """Return a multipart body whose texts are files (bytes) but for one JSON object."""
    rest, parts = {}, ""
    head = '--x\r\nContent-Disposition: form-data; name="%s"'
    for key, value in data.items():
        files = value if isinstance(value, list) else [value]
        if not (files and all(isinstance(file, bytes) for file in files)):
            rest[key] = value
            continue
        name = f"{key}[]" if files is value else key
        for file in files:
            parts += head % name + f'; filename="{key}.txt"\r\n\r\n'
            parts += file.decode("latin-1") + "\r\n"
    text, _content_type = as_json(rest)
    body = f"{head % JSON_TYPE}\r\n\r\n{text.decode()}\r\n{parts}--x--\r\n"
    return body.encode(errors="surrogatepass"), MULTIPART


@st.composite
def calls(draw, fuzz):
    """Draw a call that openapi.json describes, most of its values fitting."""
    path_ = draw(st.sampled_from(fuzz.paths))
    content = fuzz.spec["paths"][path_]["post"].get("requestBody", {}).get("content")
    schema = content[JSON_TYPE]["schema"] if content else {}
    fields = schema.get("properties", {})
    names = draw(st.lists(st.sampled_from([*fields] or ["a", "tags", ""]), max_size=4))
    data = {}
    for name in [*schema.get("required", ()), *names]:
        data[name] = draw(fuzz.values(fields.get(name, {})))
    if draw(st.integers(0, 9)) == 0:
        data[draw(odd_texts)] = draw(anything)
    if "{pk}" in path_:
        model = path_[1:].split("/{")[0]
        pk = str(draw(fuzz.values({"x-ajax": {"pk_of": model}})))
        path_ = path_.replace("{pk}", quote(pk, "", errors="surrogatepass"))
    elif draw(st.booleans()):
        path_ = path_.replace("/create.json", ".json")
    encodings = [as_json, as_json, as_form, as_multipart, as_json_part]
    encode = draw(st.sampled_from(encodings))
    body, content_type = encode(data)
    return Call(
        path=path_,
        body=body,
        type=content_type,
        user=draw(st.sampled_from(["ann", "ann", "ann", "bob", None])),
        world=draw(st.sampled_from([*fuzz.WORLDS])),
        is_atomic=draw(st.booleans()),
        is_debug=draw(st.booleans()),
        is_refused=draw(st.integers(0, 4)) == 0,
    )


def break_path(draw, path_):
    segments = path_.removesuffix(".json").split("/")
    segments[draw(st.integers(1, len(segments) - 1))] = draw(pieces)
    ends = [".json", ".json", "/x.json", "/.json", "/a/b.json"]
    return "/".join(segments) + draw(st.sampled_from(ends))


def break_headers(draw, headers):
    headers = draw(st.dictionaries(st.sampled_from(HEADERS), ODD_HEADERS))
    headers["wsgi.url_scheme"] = draw(st.sampled_from(["http", "https"]))
    return headers


def break_body(draw, body):
    place, junk = draw(st.integers(0, 99)), draw(ODD_BODIES)
    bodies = [
        body[:place],
        body[:place] + junk + body[place:],
        body * 2,
        junk,
        b"[" + body,
        body.decode(errors="replace").encode("utf-16"),
    ]
    return draw(st.sampled_from(bodies))


#: How each part of a call is broken.
BREAKERS = {
    "path": break_path,
    "headers": break_headers,
    "body": break_body,
    "type": lambda draw, content_type: draw(ODD_TYPES),
    "method": lambda draw, method: draw(ODD_METHODS),
}


@st.composite
def broken_calls(draw, fuzz):
    """Draw a call that is broken elsewhere than in its values."""
    call = draw(calls(fuzz))
    parts = st.lists(st.sampled_from([*BREAKERS]), min_size=1, max_size=2)
    for part in draw(parts):
        broken = BREAKERS[part](draw, getattr(call, part))
        call = call._replace(**{part: broken})
    return call


class Fuzz(AjaxTestCase):
    """Whatever is sent, some things hold. Each call is undone.

    Anybody may list any model here, so that a record that was written and shown can
    be read again in each way.
    """

    #: The number of calls.
    EXAMPLES = 600
    #: Whether they are the same each time; `python test_ajax.py fuzz` makes others.
    IS_SAME = True
    #: This text stands in values that nobody may see.
    MARK = uuid.uuid4().hex
    #: The models that most calls are about.
    MODELS = "article note specimen country supplier offer category crate jar".split()
    #: Endpoints whose answers are not in our format.
    OTHERS = ["openapi", "shop/page", "shop/hand_list", "shop/article/publish"]
    WORLDS = {
        "usual": contextlib.nullcontext,
        "naive": lambda: override_settings(USE_TZ=False),
        "far east": lambda: timezone.override("Pacific/Kiritimati"),
    }
    if connection.vendor == "sqlite":
        WORLDS["kept far west"] = lambda: database_in("Etc/GMT+10")
    LAST_MOMENT = b'{"moment": "9999-12-31T23:59:59Z"}'
    #: Calls that are made each time.
    ALWAYS = [
        Call("/shop/hello.json", headers={"CONTENT_LENGTH": "-5"}),
        Call("/shop/category/list.json", b'{"current_page": 9999999999999999999}'),
        Call("/shop/specimen/create.json", b'{"time": "12:30:00.5", "binary": "aGk="}'),
        Call("/shop/specimen.json", LAST_MOMENT, world="far east"),
        Call("/shop/specimenform.json", b'{"address": "", "tags": ["a b", "A b"]}'),
        Call("/shop/specimenform.json", b'{"integer": 9007199254740992}'),
        Call("/shop/specimenform.json", b'{"binary": "aGk"}'),
        Call("/shop/specimenform.json", b'{"binary": "\\u0080"}'),
        Call("/shop/specimen/create.json", b'{"tags": "a"}', is_refused=True),
        Call("/shop/stallform.json", b'{"code": "a"}'),
        Call("/shop/jar.json", b'{"worth": "99999999999999.99"}'),
        Call("/shop/jar.json", b"text=+a%0D%0A+&tags=%5B%22a%22%5D", FORM_TYPE),
        Call("/shop/specimen.json", b'{"tags": [" ", "b ", "a"], "text": " \\ufffd"}'),
    ]

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        carl = User.objects.create_user("carl")
        for user in (cls.user, cls.other, carl):
            user.password = cls.MARK
            user.save()
        Article.objects.update(secret=cls.MARK)
        Note.objects.create(owner=cls.user, article=cls.article, text="mine")
        carls = Note.objects.create(owner=carl, text=cls.MARK)
        private = Supplier.objects.create(name=cls.MARK, is_private=True)
        public = Supplier.objects.create()
        Offer.objects.create(article=cls.article, supplier=private, note=carls)
        Offer.objects.create(article=cls.article, supplier=public)
        country = Country.objects.create(code="de", name="Germany")
        specimen = Specimen.objects.create(country=country, char="a", json={"key": 1})
        specimen.keepers.add(cls.other)
        specimen.tags.add("red")
        Specimen.objects.create(twin=specimen, moment="2024-05-06T07:08:09Z")

    def setUp(self):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        return_data = mock.Mock(side_effect=lambda request: request.data)
        for patch in (
            mock.patch.object(ask, "answer", return_data, create=True),
            connection.execute_wrapper(self.notice_writes),
            self.settings(SECRET_KEY=self.MARK),
        ):
            stack.enter_context(patch)
        for sent in (ajax.ajax_created, ajax.ajax_updated, ajax.ajax_deleted):
            self.receive(sent, self.refuse)
        self.serve(Supplier, readonly_fields=["is_private"])
        for served in [*ajax.endpoint._registry]:
            if issubclass(served, models.Model):
                self.serve(served, can_list=yes)
        self.cookies = {None: "csrftoken=" + "a" * 32}
        for user in (self.user, self.other):
            client = Client()
            client.force_login(user)
            session = client.cookies["sessionid"].value
            self.cookies[user.username] = f"{self.cookies[None]}; sessionid={session}"
        self.client = Client(enforce_csrf_checks=True, raise_request_exception=False)
        self.is_refused = self.has_written = False
        #: What depends on USE_TZ, by whether it is true.
        self.specs, self.stored = {}, {}
        for is_aware in (False, True):
            with self.settings(DEBUG=True, USE_TZ=is_aware):
                self.specs[is_aware] = self.client.get("/ajax/openapi.json").json()
                self.stored[is_aware] = self.rows()
        #: What `keep` made.
        self.kept = {}
        self.paths = self.weigh_paths()

    def weigh_paths(self):
        """Return the paths to call; more often those where values differ most."""
        every = [path_ for path_ in self.spec["paths"] if not self.is_other(path_)]
        often = [path_ for path_ in every if path_.split("/")[2] in self.MODELS]
        often += [path_ for path_ in every if path_.count("/") == 2]
        of_values = re.compile("(specimen|jar/).*(create|update|list|form)")
        most = [path_ for path_ in often if of_values.search(path_)]
        return every + often * 2 + most * 40

    def is_other(self, path_):
        return path_[1:].removesuffix(".json") in self.OTHERS

    @property
    def spec(self):
        return self.specs[settings.USE_TZ]

    def keep(self, make, *key):
        """Return what make(*key) returns, made once in a test."""
        name = json.dumps([make.__name__, settings.USE_TZ, *key])
        if name not in self.kept:
            self.kept[name] = make(*key)
        return self.kept[name]

    # What is sent

    def values(self, schema):
        """Return what may be sent for a field: mostly what fits its description."""
        fitting = self.keep(self.fitting_values, schema)
        return st.integers(0, 4).flatmap(
            lambda number: anything if number == 0 else fitting
        )

    def fitting_values(self, schema):
        types = schema.get("type", [])
        model = schema.get("x-ajax", {}).get("pk_of")
        if types == "array":
            several = st.lists(self.values(schema["items"]), max_size=3)
            return several | list_texts | plain_texts
        if "array" in types:  # A value, or a list of such.
            items = self.values(schema["items"])
            return items | st.lists(items, max_size=3)
        if model:
            records = apps.get_model(model.replace("/", "."))._base_manager
            return st.sampled_from([*records.values_list("pk", flat=True), 0])
        if "oneOf" in schema:
            return st.sampled_from([choice["const"] for choice in schema["oneOf"]])
        if "format" in schema:
            types = schema["format"]
        if isinstance(types, str):
            types = [types]
        fitting = [FITTING_VALUES[name] for name in types if name in FITTING_VALUES]
        return st.one_of(fitting or [anything])

    # What is answered

    def refuse(self, **arguments):
        """Refuse a write, if the call is to be refused: a receiver of our signals."""
        if self.is_refused:
            raise exceptions.PermissionDenied

    def notice_writes(self, execute, sql, *arguments):
        if sql.startswith(("INSERT", "UPDATE", "DELETE")):
            self.has_written = True
        return execute(sql, *arguments)

    def rows(self):
        """Return all that is stored."""
        rows = {}
        with connection.cursor() as cursor:
            for table in connection.introspection.table_names(cursor):
                cursor.execute(f"SELECT * FROM {table}")
                rows[table] = sorted(map(repr, cursor.fetchall()))
        return rows

    def send(self, call):
        """Make a call; return status and reply.

        Check that the server does not fail, and that it shows and logs no secret.
        """
        headers = {"HTTP_COOKIE": self.cookies[call.user], "HTTP_X_CSRFTOKEN": "a" * 32}
        self.has_written, self.is_refused = False, call.is_refused
        with mock.patch.object(logging.Logger, "handle") as log:
            response = self.client.generic(
                call.method,
                f"/ajax{call.path}",
                call.body,
                call.type,
                **headers | call.headers,
            )
        lines = [logging.Formatter().format(line.args[0]) for line in log.mock_calls]
        lines += [str(response.headers), response.content.decode()]
        text = "\n".join(lines)
        self.assertNotIn(self.MARK, text)
        self.assertLess(response.status_code, 500, text)
        path_ = response.wsgi_request.path_info.removeprefix("/ajax")
        if call.method == "HEAD" or self.is_other(path_):
            return response.status_code, None
        self.assertEqual(response["Content-Type"], "application/json", text)
        return response.status_code, json.loads(response.content)

    def describe(self, path_):
        """Return the path as openapi.json has it."""
        arguments = resolve(f"/ajax{unquote(path_)}").kwargs
        if "pk" in arguments:
            arguments["pk"] = "{pk}"
        described = "/".join(arguments[name] for name in arguments["names"])
        if f"/{described}.json" in self.spec["paths"]:
            return f"/{described}.json"
        return f"/{described}/create.json"

    def reply_validator(self, path_):
        """Return a validator of the replies of a path, of failures for None."""
        components = self.spec["components"]
        response = components["responses"]["failure"]
        if path_:
            response = self.spec["paths"][path_]["post"]["responses"]["200"]
        schema = response["content"][JSON_TYPE]["schema"] | {"components": components}
        checker = make_format_checker()
        return jsonschema.Draft202012Validator(schema, format_checker=checker)

    def check(self, call):
        """Check what holds for each call, in its world; undo it."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.WORLDS[call.world]())
            stack.enter_context(atomic_requests(call.is_atomic))
            stack.enter_context(self.settings(DEBUG=call.is_debug))
            stack.enter_context(transaction.atomic())
            stack.callback(transaction.set_rollback, True)
            status, reply = self.send(call)
            if reply is None:
                return
            if status == 200:
                self.check_success(call, reply)
            else:
                self.check_failure(status, reply)

    def check_failure(self, status, reply):
        """Check that a failure is described, and that nothing was written."""
        self.keep(self.reply_validator, None).validate(reply)
        self.assertEqual(reply["data"]["code"], status)
        if self.has_written:
            self.assertEqual(self.rows(), self.stored[settings.USE_TZ])

    def check_success(self, call, reply):
        """Check that a reply is described, and what was written as it says."""
        path_, record = self.describe(call.path), reply["data"]
        self.keep(self.reply_validator, path_).validate(reply)
        connection.check_constraints()
        if not path_.endswith(("form.json", "/create.json", "/update.json")):
            return
        if not isinstance(record, dict) or "pk" not in record or len(record) == 1:
            return  # A form's answer that is no record, or a record that is not shown.
        model = re.sub(r"(form)?\.json|/(create|{pk}/update)\.json", "", path_)
        if f"{model}/{{pk}}/get.json" in self.spec["paths"]:
            # A form answers its record as `save` left it, an endpoint as it is stored.
            is_as_stored = not path_.endswith("form.json")
            self.check_written(call.user, model, record, is_as_stored)
        else:
            get = Call(f"{model}/{quote(str(record['pk']))}/get.json", user=call.user)
            self.assertEqual(self.send(get)[0], 404)

    def call_again(self, user, path_, pk, data):
        """Make a further call, which has to succeed; return its data."""
        again = Call(path_.replace("{pk}", pk), as_json(data)[0], user=user)
        status, reply = self.send(again)
        self.assertEqual(status, 200, (again, reply))
        self.keep(self.reply_validator, path_).validate(reply)
        return reply["data"]

    def check_written(self, user, model, record, is_as_stored):
        """Check that who wrote a record can get it, send it back whole and list it."""
        pk = quote(str(record["pk"]))
        got = self.call_again(user, f"{model}/{{pk}}/get.json", pk, {})
        if is_as_stored:
            self.assertEqual(got, record)
        self.check_sent_back(user, model, pk, got)
        listed = self.call_again(user, f"{model}/list.json", pk, {})
        self.assertIn(got, listed)
        if model == "/shop/specimen":  # The record breaks no filter.
            sent = {"moment__date": "2024-05-06"}
            self.call_again(user, "/shop/specimen/list.json", pk, sent)

    def check_sent_back(self, user, model, pk, got):
        """Check that a record that is sent back, by JSON or a form, does not change."""
        model_class = apps.get_model(model[1:].replace("/", "."))
        path_ = f"{model}/{pk}/update.json"
        for body, content_type in (
            as_json(got),
            as_form(fill_form(model_class, got)),
        ):
            call = Call(path_, body, content_type, user=user)
            status, reply = self.send(call)
            self.assertEqual(
                (status, reply), (200, {"success": True, "data": got}), call
            )
            self.assertFalse(self.has_written, call)

    def fuzz(self, strategy, examples):
        @hypothesis.settings(
            database=None,
            deadline=None,
            derandomize=self.IS_SAME,
            max_examples=examples,
            suppress_health_check=[*hypothesis.HealthCheck],
        )
        @hypothesis.given(strategy(self))
        def check(call):
            self.check(call)

        for call in self.ALWAYS:
            check = hypothesis.example(call)(check)
        check()

    def test_any_value(self):
        self.fuzz(calls, self.EXAMPLES * 2 // 3)

    def test_any_path_header_body_type_and_method(self):
        self.fuzz(broken_calls, self.EXAMPLES // 3)


# --- Projects of their own ------------------------------------------------------------

import signal
import socket
from http.client import HTTPConnection

#: A project that serves an app, and has ajax.py beside it.
DJANGO_FILES = {
    "settings.py": """
        SECRET_KEY, ALLOWED_HOSTS, ROOT_URLCONF = "only for tests", ["*"], "urls"
        DEFAULT_AUTO_FIELD, USE_TZ = "django.db.models.BigAutoField", True
        SQLITE = "django.db.backends.sqlite3"
        DATABASES = {"default": {"ENGINE": SQLITE, "NAME": ":memory:"}}
        CONTRIB = ["contenttypes", "auth", "sessions"]
        INSTALLED_APPS = [f"django.contrib.{name}" for name in CONTRIB] + ["blog"]
        MIGRATION_MODULES = dict.fromkeys([*CONTRIB, "taggit"])
        MIDDLEWARE = [
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ]
        """,
    "urls.py": """
        from django.urls import include, path
        urlpatterns = [path("ajax/", include("ajax.urls"))]
        """,
    "blog/__init__.py": "",
    "blog/models.py": """
        from django.db import models
        class Category(models.Model):
            foo = models.CharField(max_length=100)
            bar = models.CharField(max_length=100)
            baz = models.CharField(max_length=100, default="z")
        """,
    # What scripts start from: tables, a user that is logged in, and `post`.
    "shell.py": """
        import json, sys
        import django
        django.setup()
        from django.contrib.auth.models import User
        from django.core import checks, management
        from django.test import Client
        management.call_command("migrate", run_syncdb=True, verbosity=0)
        user, _is_new = User.objects.get_or_create(username="ann")
        client = Client(raise_request_exception=False)
        client.force_login(user)
        def post(path, data=None, client=client):
            response = client.post(f"/ajax/{path}.json", data)
            return [response.status_code, response.json()["data"]]
        def run_checks():
            return [message.id for message in checks.run_checks()]
        """,
}
WITHOUT_TAGGIT = {"sitecustomize.py": "import sys; sys.modules['taggit'] = None"}


def find_free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Project:
    """A folder of files, and processes that run there until a test ends.

    Only a process of its own shows what is imported first, and how ajax.py works with
    the settings of another project.
    """

    def __init__(self, test, files):
        """Create the folder for a test, and write a dict of files by name."""
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        test.addCleanup(folder.cleanup)
        self.test = test
        self.folder = Path(folder.name)
        self.write(files)

    def write(self, files):
        for name, text in files.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text), encoding="utf-8")

    def append(self, name, text):
        """Add lines to a file, or create it."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as opened:
            opened.write(f"\n{textwrap.dedent(text)}\n")

    def start_program(self, *command, **variables):
        """Start a program in the folder; return its process.

        It ends with the test, with all that it has started, and after a minute.
        """
        # In the background a shell has the tests ignore SIGINT: this would inherit it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | variables,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        signal.signal(signal.SIGINT, before)

        def kill():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        watchdog = threading.Timer(60, kill)
        watchdog.daemon = True  # The end of the tests does not wait for it.
        watchdog.start()
        for cleanup in (process.stdout.close, process.wait, kill, watchdog.cancel):
            self.test.addCleanup(cleanup)
        return process

    def start(self, *arguments, **variables):
        """Start Python in the folder; return its process."""
        paths = [str(self.folder), str(Path(ajax.__file__).parent)]
        environment = {
            "DJANGO_SETTINGS_MODULE": "settings",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
        }
        warning_options = [f"-W{option}" for option in sys.warnoptions]
        command = [sys.executable, *warning_options, *arguments]
        return self.start_program(*command, **(environment | variables))

    def finish(self, process):
        """Wait for a process, which has to succeed; return what it wrote."""
        output = process.communicate()[0]
        self.test.assertEqual(process.returncode, 0, output)
        return output

    def run_program(self, *command, **variables):
        """Run a program in the folder, which has to succeed; return what it wrote."""
        return self.finish(self.start_program(*command, **variables))

    def run(self, *arguments, **variables):
        """Run Python in the folder, which has to succeed; return what it wrote."""
        return self.finish(self.start(*arguments, **variables))

    def run_code(self, code, **variables):
        return self.run("-c", textwrap.dedent(code), **variables)

    def assert_calls(self, code, *calls):
        """Run code, then calls; each has to return what stands beside it."""
        expressions = ", ".join(call for call, _expected in calls)
        output = self.run_code(
            "from shell import *\n"
            + textwrap.dedent(code)
            + f"\nprint(json.dumps([{expressions}]))"
        )
        results = json.loads(output.splitlines()[-1])
        for (call, expected), result in zip(calls, results, strict=True):
            with self.test.subTest(call):
                self.test.assertEqual(result, expected)

    def read_until(self, process, *words):
        """Read what a process writes until it has written each word; return that."""
        output = ""
        for line in process.stdout:
            output += line
            if all(word in output for word in words):
                return output
        self.test.fail(f"No {words} in {output}")

    def serve(self, *arguments, until=(), **variables):
        """Start a server in Python; return it, once it has written these words too.

        "{}" in its arguments stands for its port.
        """
        port = find_free_port()
        arguments = [argument.format(port) for argument in arguments]
        process = self.start(*arguments, **variables)
        return Server(self, process, port, until)


class Answer(typing.NamedTuple):
    """What a server answers."""

    status: int
    headers: typing.Any
    text: str


class Server:
    """A server on 127.0.0.1, which a project has started."""

    TOKEN = {"Cookie": "csrftoken=" + "x" * 32, "X-CSRFToken": "x" * 32}

    def __init__(self, project, process, port, until=()):
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}/"
        self.output = project.read_until(process, f"127.0.0.1:{port}", *until)
        self.test = project.test

    def connect(self):
        """Return a connection for several calls."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        self.test.addCleanup(connection.close)
        return connection

    def call(self, path, body=b"", headers=(), method="POST", connection=None):
        """Call a path as the server's own page would; return its answer.

        A dict or list is sent as JSON, bytes as a form unless the headers say what
        they are.
        """
        content_type = "application/x-www-form-urlencoded"
        if isinstance(body, (dict, list)):
            content_type = "application/json"
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        headers = {"Content-Type": content_type} | self.TOKEN | dict(headers)
        connection = connection or self.connect()
        connection.request(method, f"/{path}", body, headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read().decode())

    def interrupt(self):
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)


class ProjectTestCase(SimpleTestCase):
    """Has a project of its own for each test."""

    FILES = DJANGO_FILES

    def setUp(self):
        self.project = Project(self, self.FILES)


# --- Page -----------------------------------------------------------------------------

import atexit
import gzip

from django.http import StreamingHttpResponse
from django.test import LiveServerTestCase

try:
    from selenium import webdriver
    from selenium.common.exceptions import NoAlertPresentException
    from selenium.webdriver.support.select import Select
    from selenium.webdriver.support.wait import WebDriverWait
except ImportError:
    webdriver = None


def page(request):
    """A page with {% csrf_token %} in it, under a strict policy; or its script."""
    if request.path == "/page.js":
        text = 'import ajax from "./ajax/client.js"; window.imported = ajax;'
        return HttpResponse(text, "text/javascript")
    text = '<!doctype html><script type="module" src="/page.js"></script>'
    text += f'<input name="csrfmiddlewaretoken" value="{get_token(request)}">'
    policy = {"Content-Security-Policy": "default-src 'self'"}
    return HttpResponse(text, headers=policy)


urlpatterns += [
    path("page/", page),
    path("page.js", page),
    path("site/ajax/", include("ajax", namespace="below")),
]


def skip_or_fail(reason):
    """Skip a class of tests for want of something, but where it has to be."""
    is_ci = os.environ.get("CI") == "true"
    raise RuntimeError(reason) if is_ci else unittest.SkipTest(reason)


def start_browser(case):
    """Give a class of tests a browser, headless Chromium."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (webdriver and browser and driver):
        skip_or_fail("Tests in a browser want selenium, chromium and chromedriver.")
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    case.addClassCleanup(folder.cleanup)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    names = "quic sync background-networking component-update gpu".split()
    start = f"headless=new no-sandbox no-first-run user-data-dir={folder.name}"
    for option in (*start.split(), *(f"disable-{name}" for name in names)):
        options.add_argument(f"--{option}")
    case.browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    case.addClassCleanup(case.browser.quit)


@functools.cache
def try_to_install_packages():
    """Return a folder that holds npm's packages until the process ends, or None."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    names = "axe-core@4 jquery@3 htmx.org@2 htmx4@npm:htmx.org@4"
    names += " openapi-typescript@7 typescript@5"
    options = "no-audit no-fund no-package-lock ignore-scripts silent fetch-retries=1"
    options = [f"--{option}" for option in options.split()]
    install = ["npm", "install", *options, *names.split()]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(install, cwd=folder.name, check=True, timeout=120)
        return Path(folder.name, "node_modules")


def install_packages():
    folder = try_to_install_packages()
    if folder is None:
        skip_or_fail("Tests with others' scripts want npm, and its registry.")
    return folder


@tag("browser")
class BrowserTestCase(LiveServerTestCase):
    """Has a browser; what fails to load stands in its console."""

    REFUSED = re.compile(r"Failed to load resource: .*?(?:status of (\d+)|(net::\w+))")

    @classmethod
    def setUpClass(cls):
        start_browser(cls)
        super().setUpClass()

    def setUp(self):
        # What the page of the test before did last is not of this one.
        self.browser.get("about:blank")
        self.browser.get_log("browser")
        create_records(self)
        self.addCleanup(self.assert_refused)

    def visit(self, where, user=None):
        """Open a path without cookies but, for a user, that of a session."""
        self.browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
        if user:
            self.client.force_login(user)
            value = self.client.cookies["sessionid"].value
            cookie = {"name": "sessionid", "value": value, "url": self.live_server_url}
            self.browser.execute_cdp_cmd("Network.setCookie", cookie)
        self.browser.get(f"{self.live_server_url}{where}")

    def assert_refused(self, *statuses):
        """The console holds nothing but calls refused so, since it was last read."""
        lines = self.browser.get_log("browser")
        # Asked for by the browser itself, when it likes.
        lines = [each for each in lines if "/favicon.ico" not in each["message"]]
        found = [self.REFUSED.search(each["message"]) for each in lines]
        self.assertNotIn(None, found, lines)
        refused = [each[1] or each[2] for each in found]
        self.assertEqual(refused, [*map(str, statuses)], lines)


@override_settings(STATIC_URL="/static/")
class Page(BrowserTestCase):
    """`client.js` in a browser, and how it is served."""

    mount = "/ajax/"

    def setUp(self):
        super().setUp()
        self.open(self.user)

    def open(self, user=None, query=""):
        self.visit(f"/page/{query}", user)

    def show(self, text):
        self.browser.execute_script("document.body.innerHTML = arguments[0]", text)

    def run_in_page(self, script, *args):
        """Run the body of an async function; give its result, or its error's fields."""
        module = f"{self.live_server_url}{self.mount}client.js"
        script = f"""
            const args = [...arguments], done = args.pop();
            const {{default: ajax, AJAXError}} = await import("{module}");
            const form = document.querySelector("form");
            (async () => {{ {script} }})().then(done, error => {{
              const {{name, message, code, errors, hint, loginUrl, path}} = error;
              const isOurs = error instanceof AJAXError;
              done({{name, message, code, errors, hint, loginUrl, path, isOurs}});
            }});
        """
        return self.browser.execute_async_script(script, *args)

    def call(self, path, *data):
        return self.run_in_page("return ajax(...args)", path, *data)

    def assert_error(self, error, code, message):
        found = (error["name"], error["isOurs"], error["code"])
        self.assertEqual(found, ("AJAXError", True, code), error)
        self.assertIn(message, error["message"])

    def answer(self, answer):
        """Let the function `ask` answer so until the test ends."""
        ask.answer = answer
        self.addCleanup(vars(ask).pop, "answer", None)

    def test_a_record_that_was_read_can_be_sent_back_whole(self):
        sent = {"category": self.news.pk, "title": "é", "price": "1.50"}
        record = self.call("shop/article", sent)
        self.assertEqual(record["title"], "é")
        path = f"shop/article/{record['pk']}"
        self.assertEqual(self.call(f"{path}/get"), record)
        record["title"] = "Second"
        self.assertEqual(self.call(f"{path}/update", record), record)

    def test_the_whole_reply_holds_what_stands_beside_the_data(self):
        options = "{items_per_page: 1, current_page: 2, order_by: '-title'}"
        sent = {"category": self.news.pk, "title": "Second", "price": "1.50"}
        self.call("shop/article", sent)
        reply = self.run_in_page(f"return ajax.reply('shop/article/list', {options})")
        self.assertEqual((reply["total"], reply["total_pages"]), (2, 2))
        self.assertEqual([record["title"] for record in reply["data"]], ["First"])

    def test_it_works_below_any_mount_and_under_a_strict_policy(self):
        self.mount = "/site/ajax/"
        for name in ("ajax", "window.imported"):
            reply = self.run_in_page(f"return {name}('shop/hello')")
            self.assertEqual(reply, {"hello": "world"})

    def test_a_key_may_be_any_text_without_a_slash_but_dots(self):
        keys = ("ä", "a b", "?#", "%2", "...", "&;=", "\\")
        for key in keys:
            message = f'Country with id of "{key}" not found.'
            self.assert_error(self.call(f"shop/country/{key}/get"), 404, message)
        self.assert_refused(*[404] * len(keys))
        for path in "", "/shop/ask", "shop//ask", "shop/./ask", "shop/../ask", "shop/":
            error = self.call(path)
            self.assertEqual(error["name"], "TypeError")
            self.assertIn(f'"{path}"', error["message"])

    def test_an_object_with_a_file_says_what_it_would_say_as_json(self):
        country = Country.objects.create(code="de", name="Germany")
        plain = {
            "words": "é\ud83d\ude00",
            "text": "5",
            "char": None,
            "tags": ["a b", "c,d"],
            "integer": None,
            "boolean": True,
            "json": [1, {"b": 2}, "5", None],
            "keepers": [self.user.pk, self.other.pk],
            "country": country.pk,
        }
        twin = self.call("shop/specimen", plain)
        script = """
            const file = new File(["words"], "a.txt");
            return ajax(args[0], {file, moment: undefined, ...args[1]});
        """
        made = self.run_in_page(script, "shop/specimen", plain)
        self.assertRegex(made["file"], r"^/media/specimens/a.*\.txt$")
        with Specimen.objects.get(pk=made["pk"]).file.open() as file:
            self.assertEqual(file.read(), b"words")
        self.assertEqual(made | {"pk": twin["pk"], "file": None}, twin)
        path = f"shop/specimen/{made['pk']}/update"
        # A record that was read is sent back with another file.
        again = self.run_in_page(script, path, {**made, "file": "?"})
        self.assertEqual(again, made)
        script = script.replace("{file, moment: undefined, ...args[1]}", "args[1]")
        script = (
            f"args[1].file = new Blob(['1']); args[1].moment = new Date(0); {script}"
        )
        plain = {"keepers": [], "tags": ["x y"], "integer": 7}
        made = self.run_in_page(script, path, plain)
        found = (made["keepers"], made["moment"], made["tags"][0]["name"])
        self.assertEqual(found, ([], "1970-01-01T00:00:00Z", "x y"))
        self.assertRegex(made["file"], r"^/media/specimens/blob")

    def test_of_a_form_all_is_sent_that_the_person_sees(self):
        choose = "<select name={0} multiple><option value={1}>x</select>"
        tick = "<input name={0} type=checkbox value={1}>"
        pk, old = self.user.pk, "<form><input name=csrfmiddlewaretoken value=old>"
        rest = "<input name=file type=file><input name=boolean type=checkbox disabled>"
        rest += "<input name=ticked type=checkbox>" + tick.format("tags", "red")
        record = Specimen.objects.create(ticked=True, boolean=True, file="kept.txt")
        for offer in (choose, tick, tick * 2):
            record.keepers.set([pk])
            record.tags.set(["red"])
            self.show(old + offer.format("keepers", pk) + rest)
            update = "return ajax(`shop/specimen/${args[0]}/update`, form)"
            shown = self.run_in_page(update, record.pk)
            found = map(shown.get, "keepers tags ticked boolean file".split())
            self.assertEqual([*found], [[], [], False, True, "/media/kept.txt"])
            poll = offer.format("guests", pk) + tick.format("sure", "on")
            poll += "<input name=day value=2024-05-06>" + offer.format("hours", "am")
            self.show(old + poll)
            error = self.run_in_page("return ajax('shop/pollform', form)")
            self.assertEqual(error["errors"], {"hours": ["This field is required."]})
            self.assert_refused(400)
            self.show(f"{old}{poll}<input name=hours value=pm>")
            clean = self.run_in_page("return ajax('shop/pollform', form)")
            said = {"guests": [], "sure": False, "hours": ["pm"]}
            self.assertEqual(clean, clean | said)

    def test_the_token_is_found_wherever_it_is_after_logins_in_any_tab_too(self):
        handler = self.server_thread.httpd.get_app().application.application
        self.addCleanup(handler.load_middleware)
        users = itertools.cycle([self.user, self.other])
        self.answer(lambda request: login(request, next(users)))
        upload = """
            const data = new FormData();
            data.append("csrfmiddlewaretoken", "old");
            data.append("file", new File(["words"], "a.txt"));
            return (await ajax("shop/specimen", data)).file;
        """
        names = {"CSRF_COOKIE_NAME": "a.b", "CSRF_HEADER_NAME": "HTTP_X_A_TOKEN"}
        without = [name for name in settings.MIDDLEWARE if "csrf" not in name]
        for changed, refusals in (
            ({}, []), (names, []), ({"MIDDLEWARE": without}, []),
            ({"CSRF_COOKIE_HTTPONLY": True}, [403]),
            ({"CSRF_USE_SESSIONS": True}, [403]),
        ):  # fmt: skip
            with self.subTest(**changed), self.settings(**changed):
                handler.load_middleware()
                self.open()
                self.call("shop/ask")
                self.assert_refused()
                # What cannot be read is old by now, and is fetched once.
                for expected in (refusals, []):
                    self.assertIn("/media/", self.run_in_page(upload))
                    self.assert_refused(*expected)
                tab = self.browser.current_window_handle
                self.browser.switch_to.new_window("tab")
                self.browser.get(f"{self.live_server_url}/page/")
                self.show("")
                self.call("shop/ask")
                self.assert_refused(*refusals)
                self.browser.close()
                self.browser.switch_to.window(tab)
                self.assertIn("/media/", self.run_in_page(upload))
                self.assert_refused(*refusals)
                self.assertEqual(self.call("shop/whoami"), {"username": "bob"})

    def test_a_refusal_says_why_and_where_to_log_in_to_come_back_here(self):
        for error, code, message in (
            (Http404("No such page."), 404, "No such page."),
            (IntegrityError("secret"), 409, "conflicts"),
            (ValueError("secret"), 500, "Internal server error."),
        ):
            self.answer(mock.Mock(side_effect=error))
            self.assert_error(self.call("shop/ask"), code, message)
        for debug, hint in ((False, None), (True, "Did you mean shop/hello?")):
            with self.settings(DEBUG=debug):
                error = self.call("shop/helo")
            self.assert_error(error, 404, "There is no such endpoint.")
            self.assertEqual(error["hint"], hint)
        site, here = self.live_server_url, "/page/?a=b&c#d"
        self.open(query="?a=b&c#d")
        for login_url, start, following in (
            ("/in/", f"{site}/in/?next=", here),
            ("http://a.test/?b=c", "http://a.test/?b=c&next=", site + here),
        ):
            with self.settings(LOGIN_URL=login_url):
                error = self.call("shop/whoami")
            self.assert_error(error, 403, "Please log in.")
            self.assertEqual(error["loginUrl"], start + quote(following, ""))
        self.assert_refused(404, 409, 500, 404, 404, 403, 403)

    def test_an_answer_that_is_no_reply_is_named_and_can_be_fetched(self):
        self.answer(lambda request: HttpResponse("<p>é", status=request.data))
        for status in (200, 502):
            what = f"/ajax/shop/ask.json answered {status} with text/html"
            self.assert_error(self.call("shop/ask", status), status, what)
            script = "return (await ajax.fetch(...args)).text()"
            self.assertEqual(self.run_in_page(script, "shop/ask", status), "<p>é")
        self.assert_refused(502, 502)
        self.answer(lambda request: JsonResponse([1], safe=False))
        self.assert_error(self.call("shop/ask"), 200, "with application/json, which is")

    def test_a_call_that_reaches_nobody_or_is_aborted_has_the_code_0(self):
        self.call("shop/hello")  # The module is there.
        self.browser.set_network_conditions(offline=True, latency=0, throughput=0)
        error = self.call("shop/hello")
        self.browser.delete_network_conditions()
        self.assert_error(error, 0, "The server cannot be reached.")
        self.assert_refused("net::ERR_INTERNET_DISCONNECTED")
        done = threading.Event()
        self.addCleanup(done.set)
        script = """
            const control = new AbortController(), after = AbortSignal.timeout(50);
            setTimeout(() => control.abort(args[0]), 50);
            const signal = args[0] === "after" ? after : control.signal;
            return ajax("shop/ask", {}, {signal});
        """
        halves = (b"{", b"")  # The second one comes too late.
        for late in (
            lambda request: done.wait(9),
            lambda request: StreamingHttpResponse(n or done.wait(9) for n in halves),
        ):
            self.answer(late)
            for reason in ([], ["after"], ["another reason"]):
                error = self.run_in_page(script, *reason)
                self.assert_error(error, 0, "The call was aborted.")

    def test_it_is_served_to_everybody_with_a_token_and_says_nothing_of_the_site(self):
        guard = "django.contrib.auth.middleware.LoginRequiredMiddleware"
        client, url = Client(), "/ajax/client.js"
        with self.settings(MIDDLEWARE=[*settings.MIDDLEWARE, guard]):
            response = client.get(url)
            again = client.get(url, headers={"If-None-Match": response["ETag"]})
            self.assertEqual(client.head(url).status_code, 200)
            self.assertEqual(client.post(url).status_code, 405)
        self.assertEqual(response.content.decode(), ajax._CLIENT)
        self.assertEqual(response["Content-Type"], "text/javascript; charset=utf-8")
        self.assertEqual(response["X-Content-Type-Options"], "nosniff")
        self.assertEqual((again.status_code, again.content), (304, b""))
        for each in (response, again):
            kept = (each["Cache-Control"], each["Vary"], "csrftoken" in each.cookies)
            self.assertEqual(kept, ("private, no-cache", "Cookie", True))
        self.assertLessEqual(len(ajax._CLIENT.splitlines()), 257)
        self.assertLess(len(gzip.compress(ajax._CLIENT.encode())), 4700)

    @modify_settings(MIDDLEWARE={"remove": "django.middleware.csrf.CsrfViewMiddleware"})
    def test_without_the_middleware_a_browser_keeps_its_token(self):
        client = Client()
        token = client.get("/ajax/client.js").cookies["csrftoken"].value
        client.get("/ajax/client.js")
        self.assertEqual(client.cookies["csrftoken"].value, token)

    def test_lists_of_files_arrive_as_lists(self):
        self.answer(
            lambda request: [
                {key: request.data[key] for key in request.data},
                [file.read().decode() for file in request.data["photos"]],
            ]
        )
        script = """
            const box = document.createElement("input"), transfer = new DataTransfer();
            box.type = "file";
            box.multiple = true;
            const files = ["1", "2"].map(text => new File([text], `${text}.txt`));
            for (const file of files) transfer.items.add(file);
            const none = box.files;
            if (args[0]) return ajax("shop/ask", {photos: files, none, a: [1, {}]});
            const chosen = transfer.files;
            return ajax("shop/ask", {photos: chosen, none: [], a: [1, {}]});
        """
        for is_list in (True, False):
            data, texts = self.run_in_page(script, is_list)
            self.assertEqual(texts, ["1", "2"])
            names = ["1.txt", "2.txt"]
            self.assertEqual(data, {"photos": names, "none": [], "a": [1, {}]})

    def test_search_parameters_are_a_form(self):
        self.answer(lambda request: [request.content_type, dict(request.data.lists())])
        script = """
            const text = "?a=b+c&d=1&d=2&csrfmiddlewaretoken=old";
            const data = new URLSearchParams(text);
            return [await ajax("shop/ask", data), data.has("csrfmiddlewaretoken")];
        """
        kind = "application/x-www-form-urlencoded"
        sent = {"a": ["b c"], "d": ["1", "2"]}
        self.assertEqual(self.run_in_page(script), [[kind, sent], True])

    def test_what_json_cannot_hold_is_named_and_not_sent(self):
        self.answer(lambda request: request.data)
        script = """
            const file = new File(["1"], "a.txt"), event = new Event("click");
            const box = document.createElement("input"), none = {};
            box.type = "file";
            class Filter { #text = "a"; get text() { return this.#text; } }
            return ajax("shop/ask", %s);
        """
        for source, message in {
            "new Map([[1, 2]])": "Map.",
            "new Set([1])": "Set.",
            "file": "File.",
            "new Blob([])": "Blob.",
            "box.files": "FileList.",
            "event": "Event.",
            "new MouseEvent('click')": "MouseEvent.",
            "document.body": "HTMLBodyElement.",
            "Promise.resolve({a: 1})": "Promise.",
            "/a/": "RegExp.",
            "new Error('a')": "Error.",
            "new Headers()": "Headers.",
            "new Filter()": "Filter.",
            "[file]": 'File (in "0").',
            "(() => 1)": "function.",
            "Symbol()": "symbol.",
            "{a: new Map()}": 'Map (in "a").',
            "{a: file, b: {c: [1, new Set()]}}": 'Set (in "1").',
            "{a: {b: file}}": 'File (in "b").',
            "{a: [file, 1]}": 'File (in "0").',
            "{a: {b: box.files}}": 'FileList (in "b").',
            "{a: new FormData()}": 'FormData (in "a").',
            "{a: box}": 'HTMLInputElement (in "a").',
            "{toJSON: () => ({a: file})}": 'File (in "a").',
        }.items():
            with self.subTest(source):
                error = self.run_in_page(script % source)
                expected = ("TypeError", f"JSON cannot hold this {message}")
                self.assertEqual((error["name"], error["message"]), expected)
        for source, data in {
            "{}": {},
            "[]": [],
            "null": None,
            "'text'": "text",
            "undefined": {},
            "Object.create(null)": {},
            "new (class Post { title = 'a' })": {"title": "a"},
            "{a: new Date(0), b: undefined}": {"a": "1970-01-01T00:00:00.000Z"},
            "new URL('http://a.test/')": "http://a.test/",
            "{toJSON: () => ({a: 1})}": {"a": 1},
            "Object.assign(document.createElement('p').dataset, {a: 1})": {"a": "1"},
            "new Proxy({a: new Proxy([1], {})}, {})": {"a": [1]},
        }.items():
            with self.subTest(source):
                self.assertEqual(self.run_in_page(script % source), data)
        script = """
            const frame = document.createElement("iframe");
            document.body.append(frame);
            return ajax("shop/ask", new frame.contentWindow.Object());
        """
        self.assertEqual(self.run_in_page(script), {})

    def test_whatever_answers_an_error_says_so(self):
        not_ours = "which is not a reply of ajax.py."
        for body in (
            '{"success": false}',
            '{"success": false, "data": null}',
            '{"success": false, "data": {"message": {}}}',
            '{"success": true}',
            '{"success": "true", "data": 1}',
            "null",
            "5",
            '"text"',
            "{",
            "",
        ):
            for status in (200, 418, 403):
                with self.subTest(body, status=status):
                    response = HttpResponse(body, "application/json", status)
                    self.answer(lambda request, response=response: response)
                    error = self.call("shop/ask")
                    self.assert_error(error, status, not_ours)
                    self.assertEqual(error["path"], "shop/ask")
                    self.assert_refused(*[status] * (status != 200))
        # A redirection to a page is one, too.
        self.answer(lambda request: http.HttpResponseRedirect("/page/"))
        error = self.call("shop/ask")
        self.assert_error(error, 200, "/page/ answered 200 with text/html")
        script = """
            const error = await ajax("shop/ask").catch(error => error);
            const {code, path, reply, response, cause} = error;
            const text = await response?.text();
            return [code, path, reply, text, cause instanceof Error];
        """
        self.answer(mock.Mock(side_effect=ajax.AJAXError(418, "No.", more=[1])))
        reply = {"success": False, "data": {"code": 418, "message": "No."}, "more": [1]}
        code, path_, reply_, text, has_cause = self.run_in_page(script)
        self.assertEqual((code, path_, reply_), (418, "shop/ask", reply))
        self.assertEqual((json.loads(text), has_cause), (reply, False))
        self.assert_refused(418)
        self.browser.set_network_conditions(offline=True, latency=0, throughput=0)
        found = self.run_in_page(script)
        self.browser.delete_network_conditions()
        self.assertEqual(found, [0, "shop/ask", None, None, True])
        self.assert_refused("net::ERR_INTERNET_DISCONNECTED")

    def test_errors_of_any_shape_break_nothing(self):
        self.show("<form><input name=title></form>")
        script = """
            const error = await ajax("shop/ask").catch(error => error);
            return [error.message, error.errors, ajax.showErrors(form, error)];
        """
        for errors in ({"title": "One."}, "Text.", ["One.", "Two."], None, 5, {"a": 1}):
            with self.subTest(errors=errors):
                extra = {"success": False, "data": {"code": 400, "message": "Bad."}}
                response = JsonResponse(extra | {"errors": errors}, status=400)
                self.answer(lambda request, response=response: response)
                message, errors_, rest = self.run_in_page(script)
                self.assertEqual((message, errors_), ("Bad.", errors))
                self.assertIsInstance(rest, str)
                self.assert_refused(400)

    def test_of_a_submission_the_pressed_button_is_sent(self):
        self.answer(lambda request: dict(request.data.lists()))
        self.show(
            "<form id=f><input name=title value=a><input name=tick type=checkbox>"
            "<button name=do value=save>Save</button><button>Plain</button></form>"
            "<button form=f name=do value=drop>Drop</button>"
        )
        script = """
            const [event] = await new Promise(resolve => {
              form.onsubmit = event => { event.preventDefault(); resolve([event]); };
              if (args[0] === null) form.requestSubmit();
              else document.querySelectorAll("button")[args[0]].click();
            });
            return ajax("shop/ask", event);
        """
        sent = {"title": ["a"], "tick": ["false"]}
        for number, pressed in ((0, ["save"]), (1, None), (2, ["drop"]), (None, None)):
            with self.subTest(number):
                expected = sent | ({"do": pressed} if pressed else {})
                self.assertEqual(self.run_in_page(script, number), expected)
        self.assertEqual(self.run_in_page("return ajax('shop/ask', form)"), sent)

    def show_errors(self, errors, message="Bad."):
        """Show errors; return the rest, the name focused, and the texts by name."""
        script = """
            const [errors, message] = args;
            const rest = ajax.showErrors(form ?? document.forms[0], {errors, message});
            const texts = {};
            for (const input of document.querySelectorAll("[aria-invalid=true]")) {
              const ids = input.getAttribute("aria-describedby").split(" ");
              const element = document.getElementById(ids.pop());
              const isOurs = element.matches(".ajax-error[role=alert]");
              texts[input.id || input.name] = [element.textContent, isOurs].join();
            }
            const count = document.querySelectorAll(".ajax-error").length;
            const shown = new Set(Object.values(texts)).size;
            return [rest, document.activeElement.name, texts, count === shown];
        """
        rest, focused, texts, is_whole = self.run_in_page(script, errors, message)
        self.assertTrue(is_whole)
        for text in texts.values():
            self.assertRegex(text, ",true$")
        return rest, focused, {name: text[:-5] for name, text in texts.items()}

    def test_errors_stand_behind_the_inputs_that_can_be_seen(self):
        self.show(
            "<form><p id=note>Note</p>"
            "<label>Title <input name=title aria-describedby=note></label>"
            "<input name=elements><select name=color><option>red</select>"
            "<label><input type=radio name=size value=1 id=small> Small</label>"
            "<label><input type=radio name=size value=2 id=large> Large</label>"
            "<input type=checkbox name=keepers[] value=1>"
            "<textarea name=2-text></textarea>"
            "<input type=hidden name=token><input name=none hidden><input name=veiled>"
            "<details><summary>More</summary><input name=closed></details>"
            "<details open><summary>More</summary><input name=open></details>"
            "<dialog><input name=dialog></dialog>"
            "<button name=do>Do</button><output name=sum></output></form>"
        )
        veil = "document.querySelector('[name=veiled]').style.visibility = 'hidden'"
        self.browser.execute_script(veil)
        at_inputs = {
            "elements": "Two.",
            "title": "One.",
            "color": "Three.",
            "size": "Four.",
            "keepers": "Five.",
            "2-text": "Six.",
            "open": "Seven.",
        }
        hidden = ["closed", "dialog", "do", "none", "odd", "sum", "token", "veiled"]
        errors = {name: [text] for name, text in at_inputs.items()}
        errors |= {"__all__": ["No.", "Never."]} | {name: ["?"] for name in hidden}
        rest, focused, texts = self.show_errors(errors)
        self.assertEqual(
            rest, "No. Never.\n" + "\n".join(f"{key}: ?" for key in hidden)
        )
        self.assertEqual(focused, "title")  # The first in the form.
        for box in ("small", "large"):
            at_inputs[box] = "Four."
        del at_inputs["size"]
        at_inputs["keepers[]"] = at_inputs.pop("keepers")
        self.assertEqual(texts, at_inputs)
        places = """
            return Array.from(document.querySelectorAll(".ajax-error"), element => {
              const {localName, textContent} = element.previousElementSibling;
              return [element.textContent, localName, textContent.trim()];
            });
        """
        self.assertEqual(
            self.run_in_page(places)[:4],
            [
                ["One.", "label", "Title"],
                ["Two.", "input", ""],
                ["Three.", "select", "red"],
                ["Four.", "label", "Large"],
            ],
        )
        self.assertTrue(self.run_in_page("return form.checkValidity()"))
        axe = (install_packages() / "axe-core/axe.min.js").read_text("utf-8")
        self.browser.execute_script(axe)
        script = "const [done] = arguments, options = {runOnly: ['cat.aria']};"
        script += "axe.run('form', options).then(found => done(found.violations));"
        self.assertEqual(self.browser.execute_async_script(script), [])

    def test_an_error_stands_until_its_input_changes_or_the_form_is_reset(self):
        self.show(
            "<form id=f><p id=note>Note</p><input name=a aria-describedby=note>"
            "<input name=b type=checkbox value=1><input name=b type=checkbox value=2>"
            "<select name=c><option>1<option>2</select></form>"
            "<input name=d form=f>"
        )
        errors = {name: name for name in "abcd"}
        left = """
            const texts = Array.from(document.querySelectorAll(".ajax-error"));
            const wrong = document.querySelectorAll("[aria-invalid=true]");
            const [{attributes}] = document.getElementsByName("a");
            const ids = attributes["aria-describedby"].value;
            return [texts.map(each => each.textContent).join(""), wrong.length, ids];
        """
        for _time in range(2):
            self.show_errors(errors)
            boxes = self.browser.find_elements("css selector", "[name]")
            for number, text in ((0, "bcd"), (2, "cd"), (3, "d"), (4, "")):
                box = boxes[number]
                box.send_keys("2") if number != 2 else box.click()
                found = self.run_in_page(left)
                wrong = {"bcd": 4, "cd": 2, "d": 1, "": 0}[text]
                self.assertEqual(found, [text, wrong, "note"])
            self.run_in_page("form.reset()")
        # Errors that are shown again replace those before, and a reset removes all.
        self.show_errors(errors)
        self.assertEqual(self.show_errors({"a": "Again."})[2], {"a": "Again."})
        self.assertEqual(self.run_in_page(left)[:2], ["Again.", 1])
        self.run_in_page("form.reset()")
        self.assertEqual(self.run_in_page(left), ["", 0, "note"])
        # What was shown before is gone: its input clears no newer error.
        self.show_errors({"a": "Once."})
        boxes[0].send_keys("x")
        self.show_errors({"a": "Twice."})
        self.run_in_page("form.dispatchEvent(new Event('ajax-clear'))")
        self.assertEqual(self.run_in_page(left), ["", 0, "note"])
        # Widgets tell of a change only.
        self.show_errors({"c": "?"})
        change = "form.elements.c.dispatchEvent(new Event('change'))"
        self.run_in_page(f"form.elements.c.value = '2'; {change}")
        self.assertEqual(self.run_in_page(left)[:2], ["", 0])
        # Whoever only leaves an input, which was judged as it is, still sees why.
        boxes[0].send_keys("x")
        self.show_errors({"a": "Bad."})
        boxes[4].click()
        self.assertEqual(self.run_in_page(left)[:2], ["Bad.", 1])

    def test_errors_of_any_shape_are_given_as_text(self):
        self.show("<form><input name=a></form>")
        for errors, rest, texts in (
            ({"a": "One."}, "", {"a": "One."}),
            ({"a": ["One.", "Two."]}, "", {"a": "One. Two."}),
            ({"a": {"b": ["One.", {"c": "Two."}]}}, "", {"a": "One. Two."}),
            ({"a": None, "b": None}, "", {"a": ""}),
            ({"b": [1, None, False]}, "b: 1  false", {}),
            ("Text.", "Text.", {}),
            (["One.", ["Two."]], "One. Two.", {}),
            ([], "Bad.", {}),
            ({}, "Bad.", {}),
            (None, "Bad.", {}),
            (5, "5", {}),
        ):
            with self.subTest(errors):
                found = self.show_errors(errors)
                self.assertEqual((found[0], found[2]), (rest, texts))
        script = "return ajax.showErrors(form, new TypeError('Oh.'))"
        self.assertEqual(self.run_in_page(script), "Oh.")

    def fill(self, markup, record):
        """Fill a form; return the names that it cannot show, and what it sends."""
        self.show(f"<form>{markup}</form>")
        self.answer(lambda request: dict(request.data.lists()))
        script = """
            const unshown = ajax.fill(form, args[0]);
            return [unshown, await ajax("shop/ask", form), form.checkValidity()];
        """
        unshown, sent, is_valid = self.run_in_page(script, record)
        self.assertTrue(is_valid)
        return unshown, sent

    def test_a_form_is_filled_from_a_record(self):
        options = "<option value=''>-<option value=1>a<option value=2>b</select>"
        truth = "<option value=''>?<option value=True>y<option value=False>n</select>"
        one, several = f"<select name=a>{options}", f"<select name=a multiple>{options}"
        box, text = "<input name=a type={} value={}>", "<input name=a>"
        boxes = box.format("checkbox", 1) + box.format("checkbox", 2)
        radios = box.format("radio", 1) + box.format("radio", 2)
        tick = "<input name=a type=checkbox>"
        hidden = "<input name=a type=hidden value=0>"
        area = "<textarea name=a>x</textarea>"
        red = {"pk": 7, "name": "red", "slug": "red"}
        tags = [red, {"pk": 8, "name": "a b", "slug": "a-b"}]
        quoted = [red, {"pk": 9, "name": 'a"b', "slug": "ab"}]
        news = {"pk": 1, "name": "News", "slug": "news", "parent": None}
        kind = {"pk": 1, "name": "Kind", "slug": "kind"}
        for markup, value, sent in (
            (text, "word", "word"),
            (text, "", ""),
            (text, None, ""),
            (text, 1.5, "1.5"),
            (text, True, "true"),
            (text, news, "1"),
            (text, kind, "1"),  # A foreign key, though it looks like a tag.
            (text, tags, 'red, "a b"'),
            (text, quoted, '["red","a\\"b"]'),
            (text, [], ""),
            (text, [1, 2], "[1,2]"),
            ("<input name=a[]>", "x", None),
            (area, "a\nb", "a\r\nb"),
            (area, {"pk": 1}, '{"pk":1}'),
            (area, [], "[]"),
            (area, [1, {"b": None}], '[1,{"b":null}]'),
            (area, [red], "red"),
            ("<input name=a type=number>", "9.50", "9.50"),
            ("<input name=a type=number>", 7, "7"),
            (one, 2, "2"),
            (one, "1", "1"),
            (one, news, "1"),
            (one, None, ""),
            (several, [1, 2], ["1", "2"]),
            (several, [news], "1"),
            (several, [], ""),
            (f"<select name=a multiple>{options.replace('1', 'red')}", [red], "red"),
            (boxes, [2], "2"),
            (boxes, [], ""),
            (box.format("checkbox", "red"), [red], "red"),
            (box.format("checkbox", "red"), [], ""),
            (radios, 2, "2"),
            (radios, None, None),
            (tick, True, "on"),
            (tick, False, "false"),
            (tick.replace("box", "box checked"), False, "false"),
            (tick.replace("box", "box checked"), None, "false"),
            (hidden + box.format("checkbox", "1"), True, ["0", "1"]),
            (f"<select name=a>{truth}", True, "True"),
            (f"<select name=a>{truth}", False, "False"),
            (f"<select name=a>{truth}", None, ""),
            ("<input name=a type=date>", "2024-05-06", "2024-05-06"),
            ("<input name=a type=time>", "07:08:09", "07:08:09"),
            ("<input name=a type=time>", "07:08:00.500000", "07:08:00.500"),
            ("<output name=a></output>", "x", None),
            ("<button name=a value=b>x</button>", "x", None),
            ("<input name=elements><input name=a>", "x", "x"),
            ("<input name=b>", "x", None),
            ("<input name=a type=file>", None, ""),
        ):
            with self.subTest(markup=markup, value=value):
                unshown, answer = self.fill(markup, {"a": value})
                self.assertEqual(unshown, [])
                key = "a[]" if "a[]" in markup else "a"
                expected = [sent] if isinstance(sent, str) else sent
                if key == "a[]":
                    expected = ["x"]
                self.assertEqual(answer.get(key), expected)

    def test_what_inputs_cannot_show_is_told(self):
        options = "<option value=1>a<option value=2>b</select>"
        for markup, value, sent in (
            (f"<select name=a>{options}", 3, None),
            (f"<select name=a>{options}", [1, 2], ["2"]),
            (f"<select name=a multiple>{options}", [1, 3], ["1"]),
            ("<select name=a></select>", 1, None),
            ("<input name=a type=radio value=1 checked>", 3, None),
            ("<input name=a type=checkbox value=1>", [1, 2], ["1"]),
            ("<input name=a>", "a\nb", ["ab"]),
            ("<input name=a type=number>", "x", [""]),
            ("<input name=a type=range>", 500, ["100"]),
            ("<input name=a type=date>", "2024-05-06T07:08:09Z", ["2024-05-06"]),
            ("<input name=a type=date>", "x", [""]),
            ("<input name=a type=time>", "07:08:09.123456", ["07:08:09.123"]),
            ("<input name=a type=time>", "07:08:09.000001", ["07:08:09.000"]),
            ("<input name=a type=datetime-local>", "2024-05-06", [""]),
            ("<input name=a type=file>", "/media/a.txt", [""]),
        ):
            with self.subTest(markup=markup, value=value):
                unshown, answer = self.fill(markup, {"b": 1, "a": value})
                self.assertEqual((unshown, answer.get("a")), (["a"], sent))
        self.browser.get_log("browser")  # It warns of texts that are no dates.

    def test_date_times_are_filled_in_as_the_servers_clock_shows_them(self):
        markup = "<input name=a type=datetime-local>"
        for zone, sent, local in (
            ("UTC", "2024-05-06T07:08:09Z", "2024-05-06T07:08:09"),
            ("UTC", "2024-05-06T07:08:09.120000Z", "2024-05-06T07:08:09.12"),
            ("Europe/Berlin", "2024-05-06T23:08:00Z", "2024-05-07T01:08"),
            ("Europe/Berlin", "2024-01-06T23:08:00Z", "2024-01-07T00:08"),
            ("America/St_Johns", "2024-05-06T02:00:00+02:00", "2024-05-05T21:30"),
            ("Pacific/Kiritimati", "2024-12-31T10:00:00Z", "2025-01-01T00:00"),
        ):
            with self.subTest(zone=zone, sent=sent), self.settings(TIME_ZONE=zone):
                self.open(self.user)
                self.assertEqual(self.fill(markup, {"a": sent}), ([], {"a": [local]}))
        with self.settings(USE_TZ=False, TIME_ZONE="Europe/Berlin"):
            self.open(self.user)
            filled = self.fill(markup, {"a": "2024-05-06T07:08:09"})
            self.assertEqual(filled, ([], {"a": ["2024-05-06T07:08:09"]}))
        for zone, name in (
            (datetime.timezone.utc, "UTC"),
            (datetime.timezone(datetime.timedelta(hours=-3, minutes=-30)), "-03:30"),
            ("Asia/Kolkata", "Asia/Kolkata"),
        ):
            with timezone.override(zone):
                text = Client().get("/ajax/client.js").content.decode()
            self.assertIn(f'const TIME_ZONE = "{name}";', text)

    def test_a_record_that_fills_a_form_is_sent_back_unchanged(self):
        Country.objects.create(code="de", name="Germany")
        record = self.call(
            "shop/specimen",
            {
                "char": "a b",
                "kind": "b",
                "text": "<b>",
                "integer": -5,
                "big": str(2**60),
                "decimal": "9.50",
                "float": 1.25,
                "boolean": True,
                "ticked": False,
                "date": "2024-05-06",
                "time": "07:08:09",
                "moment": "2024-05-06T23:08:09.5Z",
                "duration": "P1DT2H",
                "json": {"a": [1, None, "x"]},
                "country": "de",
                "keepers": [self.user.pk, self.other.pk],
                "tags": ["red", "a b"],
            },
        )
        markup = "".join(
            f"<input name={name}>" for name in "char big duration country tags".split()
        )
        markup += "<input name=integer type=number><input name=decimal type=number>"
        markup += "<input name=float type=number><input name=date type=date>"
        markup += "<input name=time type=time><input name=moment type=datetime-local>"
        markup += "<textarea name=text></textarea><textarea name=json></textarea>"
        markup += "<input name=boolean type=checkbox><input name=ticked type=checkbox>"
        markup += "<select name=kind><option>a<option>b</select><select name=keepers "
        people = f"<option>{self.user.pk}<option>{self.other.pk}<option>0"
        script = """
            const unshown = ajax.fill(form, args[0]);
            return [unshown, await ajax(`shop/specimen/${args[0].pk}/update`, form)];
        """
        with self.settings(TIME_ZONE="Asia/Tokyo"):
            self.open(self.user)
            self.show(f"<form>{markup}multiple>{people}</select></form>")
            self.assertEqual(self.run_in_page(script, record), [[], record])


# --- OpenAPI --------------------------------------------------------------------------

import openapi_spec_validator


class OpenAPI(AjaxTestCase):
    def described(self):
        with self.settings(DEBUG=True):
            return self.client.get("/ajax/openapi.json").json()

    def test_it_is_valid_openapi(self):
        openapi_spec_validator.validate(self.described())

    @tag("browser")
    def test_typescript_has_types_of_it(self):
        programs = install_packages() / ".bin"
        script = """
            import type {components, operations} from "./ajax";
            type Article = components["schemas"]["shop.article"];
            const title: Article["title"] = "a", price: Article["price"] = "1.50";
            // @ts-expect-error: there is none.
            type Secret = Article["secret"];
            type Replies = operations["shop.article.list"]["responses"];
            const list = {} as Replies[200]["content"]["application/json"];
            const total: number = list.total, first: Article = list.data[0];
            console.log(title, price, total, first, {} as Secret);
            """
        openapi = json.dumps(self.described())
        project = Project(self, {"openapi.json": openapi, "page.ts": script})
        openapi_typescript = programs / "openapi-typescript"
        project.run_program(openapi_typescript, "openapi.json", "-o", "ajax.d.ts")
        project.run_program(programs / "tsc", "--noEmit", "--strict", "page.ts")

    def test_visitors_do_not_see_it(self):
        staff = User.objects.create_user("staff", is_staff=True)
        left = User.objects.create_user("left", is_staff=True, is_active=False)
        for user, status in ((None, 404), (self.user, 404), (left, 404), (staff, 200)):
            client = Client()
            if user:
                client.force_login(user)
            names = "explorer.js explorer.css explorer.svg openapi.json".split()
            for name in ("", *names):
                with self.subTest(name, user=user):
                    response = client.get(f"/ajax/{name}")
                    self.assertEqual(response.status_code, status)
                    self.assertEqual(client.post(f"/ajax/{name}").status_code, 405)
                    if status == 200:
                        names = ("Cache-Control", "X-Frame-Options", "Vary")
                        kept = [response[name] for name in names]
                        self.assertEqual(kept, ["no-store", "DENY", "Cookie"])

    def test_it_says_who_asks(self):
        self.assertEqual(
            self.described()["x-ajax"], {"you": "You are logged in as ann."}
        )
        self.client.logout()
        visitor = {"you": "You are not logged in.", "login_url": "/accounts/login/"}
        self.assertEqual(self.described()["x-ajax"], visitor)

    def test_visitors_are_told_where_staff_log_in(self):
        self.client.logout()
        reply = self.client.get("/ajax/openapi.json")
        self.assertEqual(reply.json()["login_url"], "/accounts/login/")
        for login_url, link in (
            ("/in/", "/in/?next=%2Fajax%2F%3Fa%3D1"),
            ("/in/?a=b", "/in/?a=b&amp;next=%2Fajax%2F%3Fa%3D1"),
        ):
            with self.settings(LOGIN_URL=login_url):
                page = self.client.get("/ajax/?a=1")
            self.assertContains(page, f'<a href="{link}">Log in</a>', status_code=404)
            self.assertEqual(page["X-Frame-Options"], "DENY")
            self.assertEqual(page["Cache-Control"], "no-store")
        self.client.force_login(self.user)
        self.assertNotContains(self.client.get("/ajax/"), "Log in", status_code=404)
        middleware = "django.contrib.auth.middleware.AuthenticationMiddleware"
        with self.modify_settings(MIDDLEWARE={"remove": middleware}):
            self.assertEqual(self.client.get("/ajax/").status_code, 404)

    def test_it_says_what_a_failure_is(self):
        failure = self.described()["components"]["responses"]["failure"]
        schema = failure["content"]["application/json"]["schema"]
        jsonschema.validate(self.post("shop/nothing", status=404), schema)

    def test_it_names_what_is_served_and_nothing_else(self):
        paths = self.described()["paths"]
        article = {each.split("/", 3)[3] for each in paths if "/article/" in each}
        one = {"get", "update", "delete", "publish", "count"}
        commands = {"add", "remove", "set", "clear", "similar"}
        expected = {"list.json", "create.json", "publish.json", "count.json"}
        expected |= {f"{{pk}}/{name}.json" for name in one}
        expected |= {f"{{pk}}/tags/{name}.json" for name in commands}
        self.assertEqual(article, expected)
        self.assertLess({"/shop/hello.json", "/shop/contactform.json"}, paths.keys())
        self.assertEqual(self.described()["servers"], [{"url": "/ajax"}])
        with self.settings(DEBUG=True, ROOT_URLCONF="ajax"):
            servers = self.client.get("/openapi.json").json()["servers"]
        self.assertEqual(servers, [{"url": "/"}])
        self.serve(Article, operations=["get"], readonly_fields=["tags"])
        paths = [each for each in self.described()["paths"] if "/article/" in each]
        self.assertEqual(paths, ["/shop/article/{pk}/get.json"])
        self.serve(Article, operations=None)
        self.assertNotIn("/shop/article/{pk}/tags/add.json", self.described()["paths"])
        self.assertIn("/shop/article/{pk}/tags/similar.json", self.described()["paths"])

    def body(self, path):
        content = self.described()["paths"][path]["post"]["requestBody"]["content"]
        return content["application/json"]["schema"], [*content]

    def test_it_says_what_each_field_takes(self):
        taken, kinds = self.body("/shop/specimen/create.json")
        text, null = {"type": ["string"]}, "null"
        self.assertEqual(kinds, ["application/json", "multipart/form-data"])
        self.assertEqual(taken["required"], [])
        choices = [{"const": "a", "title": "A"}, {"const": "b", "title": "B"}]
        choices.append({"const": "", "title": "empty"})
        choices.append({"const": None, "title": "null"})
        for name, schema in {
            "char": {"type": ["string", null], "maxLength": 5},
            "words": text | {"maxLength": 20},
            "kind": {"type": ["string", null], "oneOf": choices},
            "text": {"type": ["string", null], "x-ajax": {"multiline": True}},
            "integer": {"type": ["integer", null]},
            "big": {"type": ["integer", "string", null]},
            "email": {"type": ["string", null], "maxLength": 254},
            "uuid": {"type": ["string", null], "format": "uuid"},
            "binary": {"type": ["string", null], "format": "byte"},
            "time": {"type": ["string", null], "format": "time-local"},
            "moment": {"type": ["string", null], "format": "date-time"},
            "file": {"type": ["string", null], "format": "binary"},
            "country": {"type": ["string", null], "x-ajax": {"pk_of": "shop/country"}},
            "tags": {"type": "array", "items": {"type": "string"}},
            "json": {},
        }.items():
            with self.subTest(name):
                self.assertEqual(taken["properties"][name], schema)
        taken, kinds = self.body("/shop/article/create.json")
        self.assertEqual(taken["required"], ["category", "title", "price"])
        self.assertEqual(kinds[1:], ["application/x-www-form-urlencoded"])
        with self.settings(USE_TZ=False):
            taken, _kinds = self.body("/shop/specimen/create.json")
        self.assertEqual(taken["properties"]["moment"], {"type": ["string", null]})
        taken, _kinds = self.body("/shop/pollform.json")
        day, hours = taken["properties"]["day"], taken["properties"]["hours"]
        self.assertEqual(day, {"type": ["string"], "format": "date"})
        self.assertEqual(hours["type"], "array")
        self.assertEqual(hours["items"]["oneOf"][0], {"const": "am", "title": "a"})
        self.assertNotIn("type", taken["properties"]["json"])
        shown = self.described()["components"]["schemas"]["shop.article"]["properties"]
        read = {name for name, schema in shown.items() if schema.get("readOnly")}
        self.assertEqual(read, {"pk", "author"})

    def test_it_says_what_a_form_wants(self):
        required = self.body("/shop/pollform.json")[0]["required"]
        self.assertEqual(required, ["day", "hours"])

    def test_it_names_what_a_form_reads(self):
        class SplitForm(forms.Form):
            prefix = "p"
            at = forms.SplitDateTimeField(help_text="When.")
            until = forms.SplitDateTimeField(required=False)
            plans = RepeatedFileField()
            letters = forms.CharField(widget=forms.SelectMultiple, required=False)
            owner = forms.CharField(disabled=True, initial="ann")

            def save(self):
                names = [file.name for file in self.cleaned_data["plans"]]
                at = self.cleaned_data["at"].isoformat()
                return [at, self.cleaned_data["owner"], names]

        self.serve(SplitForm)
        schema, kinds = self.body("/shop/splitform.json")
        self.assertEqual(kinds, ["application/json", "multipart/form-data"])
        text = {"type": ["string"]}
        self.assertEqual(
            schema["properties"],
            {
                "p-at_0": text | {"description": "When."},
                "p-at_1": text | {"description": "When."},
                "p-until_0": text,
                "p-until_1": text,
                "p-plans": {"type": "array", "items": text | {"format": "binary"}},
                "p-letters": {"type": "array", "items": text},
            },
        )
        required = ["p-at_0", "p-at_1", "p-plans"]
        self.assertEqual(schema["required"], required)
        # What is described is what is read.
        self.assertEqual({*self.errors("shop/splitform")}, {"p-at", "p-plans"})
        files = [SimpleUploadedFile(name, b"x") for name in ("a", "b")]
        sent = {"p-at_0": "2024-05-06", "p-at_1": "07:08", "p-plans[]": files}
        data = self.post("shop/splitform", sent, form=True)["data"]
        self.assertEqual(data[1:], ["ann", ["a", "b"]])
        self.assertIn("2024-05-06T07:08:00", data[0])

    @isolate_apps("test_ajax")
    def test_a_key_of_a_kind_of_its_own_is_text(self):
        ULIDField = type("ULIDField", (models.Field,), {"db_type": lambda *_: "text"})
        Badge = make_model("Badge", code=ULIDField(primary_key=True))
        Guard = make_model("Guard", badge=models.ForeignKey(Badge, models.CASCADE))
        self.serve(Badge, can_get=no)
        self.serve(Guard)
        described = self.described()
        schema = described["components"]["schemas"]["shop.guard"]
        _record, pk = schema["properties"]["badge"]["anyOf"]
        self.assertEqual(pk["type"], ["string", "null"])
        (parameter,) = described["paths"]["/shop/badge/{pk}/get.json"]["parameters"]
        self.assertEqual(parameter["schema"]["type"], "string")

    def test_it_says_what_a_list_takes(self):
        taken, _kinds = self.body("/shop/article/list.json")
        sized = {"items_per_page", "current_page"}
        asked = "category published created__gte readers tags search order_by".split()
        self.assertEqual({*taken["properties"]}, {*asked, *sized})
        for name, item in {
            "created__gte": {"type": ["string"], "format": "date-time"},
            "published": {"type": ["boolean"]},
            "category": {"type": ["integer"], "x-ajax": {"pk_of": "shop/category"}},
            "readers": {
                "type": ["integer", "null"],
                "x-ajax": {"pk_of": "auth/user"},
            },
            "tags": {"type": ["string"]},
        }.items():
            several = item | {"type": [*item["type"], "array"], "items": item}
            self.assertEqual(taken["properties"][name], several)
        order = taken["properties"]["order_by"]
        self.assertEqual(order["type"], ["string", "array"])
        self.assertIn("category__title", order["description"])
        names = list(ArticleEndpoint.sortable_by)
        self.assertEqual(order["x-ajax"], {"sortable_by": names})
        taken, _kinds = self.body("/shop/supplier/list.json")
        self.assertEqual({*taken["properties"]}, sized)

    def test_it_says_what_a_tags_command_takes_and_what_is_asked_before(self):
        paths = self.described()["paths"]
        for name, taken, asks, hook in (
            ("tags/add", ["tags"], None, "can_update"),
            ("tags/clear", None, "Remove all tags of this record?", "can_update"),
            ("tags/similar", None, None, None), ("get", None, None, None),
            ("delete", None, "Delete this record?", "can_delete"),
        ):  # fmt: skip
            with self.subTest(name):
                call = paths[f"/shop/article/{{pk}}/{name}.json"]["post"]
                who = "Logged-in users"
                who += f", if ArticleEndpoint.{hook} allows." if hook else "."
                said = {"who": who} | ({"asks": asks} if asks else {})
                self.assertEqual(
                    (call["x-ajax"], call["tags"]), (said, ["shop/article"])
                )
                body = call.get("requestBody", {"content": {"application/json": {}}})
                schema = body["content"]["application/json"].get("schema", {})
                self.assertEqual(schema.get("required"), taken)

    def test_it_says_who_may_call(self):
        def no_one(self, request, application, method):
            return False

        self.serve(Category, authenticate=no_one, require_permissions=True)
        self.serve(Article, require_permissions=True)
        with self.settings(CSRF_USE_SESSIONS=True):
            self.assertNotIn("csrfCookie", str(self.described()))
        self.serve(User)
        for path_, who in {
            "hello": "Everybody.",
            "whoami": "Logged-in users.",
            "category/create": "Access: decided by CategoryEndpoint.authenticate, with "
            "the permission to add.",
            "country/list": "Logged-in users, if CountryEndpoint.can_list allows.",
            "note/create": "Logged-in users.",
            "user/create": "Logged-in users, with the permission to add.",
            "article/{pk}/tags/add": "Logged-in users, if ArticleEndpoint.can_update "
            "allows, with the permission to change.",
            "article/{pk}/tags/clear": "Logged-in users, if ArticleEndpoint.can_update "
            "allows, with the permission to change.",
            "article/{pk}/tags/similar": "Logged-in users.",
        }.items():
            app = "auth" if path_.startswith("user") else "shop"
            call = self.described()["paths"][f"/{app}/{path_}.json"]["post"]
            self.assertEqual(call["x-ajax"]["who"], who)
            # Visitors may be let in by what the project wrote.
            sessions = ["session" in schemes for schemes in call["security"]]
            expected = {"Everybody": [False], "Access: d": [True, False]}
            self.assertEqual(sessions, expected.get(who[:9], [True]))
        guard = "django.contrib.auth.middleware.LoginRequiredMiddleware"
        with self.modify_settings(MIDDLEWARE={"append": guard}):
            call = self.described()["paths"]["/shop/hello.json"]["post"]
        self.assertEqual(call["x-ajax"]["who"], "Logged-in users.")
        with self.settings(AJAX_AUTHENTICATION="test_ajax.Nobody"):
            call = self.described()["paths"]["/shop/note/list.json"]["post"]
        decided = "Access: decided by AJAX_AUTHENTICATION and NoteEndpoint.can_list."
        self.assertEqual(call["x-ajax"]["who"], decided)
        self.serve(Country, can_list=ajax.ModelEndpoint.can_list)
        call = self.described()["paths"]["/shop/country/list.json"]["post"]
        self.assertTrue(call["x-ajax"]["who"].startswith("Nobody"))

    def test_each_call_has_a_summary_and_those_of_models_name_them(self):
        class SilentForm(forms.Form):
            pass

        class ToldForm(forms.Form):
            """Tell us.

            We listen.
            """

        class Told(ajax.FormEndpoint):
            """It is open to all."""

        def ring(self, request):
            pass

        def update(self, request):
            """Change it.

            Its author gets a mail.
            """

        self.serve(Country, ring=ring, update=update)
        self.serve(SilentForm)
        self.serve(ToldForm, **vars(Told))
        paths = self.described()["paths"]
        summaries = {path: item["post"]["summary"] for path, item in paths.items()}
        self.assertEqual([path for path in paths if not summaries[path]], [])
        for path, summary in {
            "article/create": "Create an article.",
            "article/list": "List articles.",
            "article/{pk}/get": "Get an article.",
            "note/{pk}/update": "Update a note.",
            "offer/{pk}/delete": "Delete an offer.",
            "country/{pk}/update": "Change it.",
            "country/{pk}/ring": "Call `ring` of a country.",
            "article/{pk}/tags/add": "Add tags to an article; return all its tags.",
            "note/{pk}/get": "Get a note.",
            "whoami": "Call `whoami`.",
            "silentform": "Submit `SilentForm`.",
            "toldform": "Tell us.",
        }.items():
            self.assertEqual(summaries[f"/shop/{path}.json"], summary)
        texts = {path: item["post"]["description"] for path, item in paths.items()}
        self.assertEqual(
            texts["/shop/country/{pk}/update.json"], "Its author gets a mail."
        )
        told = "We listen.\n\nIt is open to all."
        self.assertEqual(texts["/shop/toldform.json"], told)

    def test_docstrings_of_endpoint_classes_and_modules_describe_their_groups(self):
        self.serve(Country, __doc__="Where wine\n    comes from.")
        self.serve(Group)
        with self.apps(told='"""What is told."""\ndef tell(request): pass'):
            groups = self.described()["tags"]
        texts = {group["name"]: group["description"] for group in groups}
        self.assertEqual(texts["shop/country"], "Where wine\ncomes from.")
        self.assertEqual(texts["shop/note"], "Notes.")
        self.assertEqual(texts["auth/group"], "Groups.")
        self.assertEqual(texts["told"], "What is told.")
        self.serve(type("GroupForm", (forms.Form,), {"__module__": Group.__module__}))
        groups = self.described()["tags"]
        texts = {group["name"]: group["description"] for group in groups}
        self.assertEqual(texts["auth"], "Authentication and Authorization.")
        paths = self.described()["paths"].values()
        used = {name for item in paths for name in item["post"]["tags"]}
        self.assertEqual(used, set(texts))

    @isolate_apps("test_ajax")
    def test_only_what_has_no_default_is_required(self):
        Cork = make_model("Cork")
        fields = {
            "plain": models.CharField(max_length=9),
            "filled": models.CharField(max_length=9, default="a"),
            "stored": models.CharField(max_length=9, db_default="a"),
            "blank": models.CharField(max_length=9, blank=True),
            "corks": models.ManyToManyField(Cork),
            "spares": models.ManyToManyField(Cork, blank=True, related_name="+"),
        }
        self.serve(make_model("Bottle", **fields))
        taken, _kinds = self.body("/shop/bottle/create.json")
        self.assertEqual(taken["required"], ["plain", "corks"])
        self.assertEqual([*taken["properties"]], [*fields])

    @isolate_apps("test_ajax")
    def test_choices_are_what_may_be_sent(self):
        numbers = [("Low", [(1, "one"), (2, "two")]), (3, "three")]
        Dial = make_model(
            "Dial",
            number=models.IntegerField(choices=numbers, null=True, blank=True),
            text=models.CharField(max_length=1, choices=[("a", "A"), ("", "None")]),
            blank=models.CharField(
                max_length=1, choices=[("a", "A"), ("", "None")], blank=True
            ),
            flag=models.BooleanField(choices=[(True, "Yes"), (False, "No")]),
        )
        self.serve(Dial)
        self.serve(forms.modelform_factory(Dial, fields="__all__"))
        for path, expected in {
            "dial/create": {
                "number": [1, 2, 3, None],
                "text": ["a"],
                "blank": ["a", ""],
                "flag": [True, False],
            },
            # A form sends texts.
            "dialform": {
                "number": ["", "1", "2", "3"],
                "text": ["a"],
                "blank": ["a", ""],
                "flag": ["True", "False"],
            },
        }.items():
            taken, _kinds = self.body(f"/shop/{path}.json")
            for name, values in expected.items():
                with self.subTest(path, name=name):
                    schema = taken["properties"][name]
                    consts = [choice["const"] for choice in schema["oneOf"]]
                    self.assertEqual(consts, values)
                    for value in values:
                        jsonschema.validate(value, schema)

    def test_an_address_that_may_be_empty_has_no_format(self):
        optional = forms.EmailField(required=False)
        fields = {"needed": forms.EmailField(), "optional": optional}
        self.serve(type("AddressForm", (forms.Form,), fields))
        taken, _kinds = self.body("/shop/addressform.json")
        formats = {key: each.get("format") for key, each in taken["properties"].items()}
        self.assertEqual(formats, {"needed": "email", "optional": None})
        shown = self.described()["components"]["schemas"]["shop.specimen"]
        self.assertNotIn("format", shown["properties"]["email"])

    def test_integers_beyond_javascripts_are_text_and_only_large_columns_take_them(
        self,
    ):
        forms_ = {"seats": forms.IntegerField()}
        self.serve(type("SeatsForm", (forms.Form,), forms_))
        large, small = ["integer", "string"], ["integer"]
        schemas = self.described()["components"]["schemas"]
        shown = schemas["shop.specimen"]["properties"]
        self.assertEqual(shown["pk"]["type"], small)
        self.assertEqual(shown["keepers"]["items"]["type"], small)
        for path, name, kinds in (
            ("specimen/create", "integer", [*small, "null"]),
            ("specimen/create", "big", [*large, "null"]),
            ("specimen/create", "positive", [*small, "null"]),
            ("specimenform", "integer", small),
            ("specimenform", "big", large),
            ("seatsform", "seats", small),
        ):
            taken, _kinds = self.body(f"/shop/{path}.json")
            self.assertEqual(taken["properties"][name]["type"], kinds, path)
        for number in (2**53, -(2**53)):
            for path, name in (
                ("specimen", "integer"),
                ("specimenform", "integer"),
                ("seatsform", "seats"),
            ):
                for form in (False, True):
                    with self.subTest(path, number=number, form=form):
                        errors = self.errors(f"shop/{path}", {name: number}, form=form)
                        self.assertEqual([*errors], [name])
                        self.assertIn("Ensure this value is", errors[name][0])
            for path in ("specimen", "specimenform"):
                data = self.post(f"shop/{path}", {"big": number})["data"]
                self.assertEqual(data["big"], str(number))
            # A filter asks, and stores nothing.
            self.post("shop/specimen/list", {"integer": number, "integer__gte": number})

    def test_a_key_in_a_path_has_one_scalar_type(self):
        for path, item in self.described()["paths"].items():
            for parameter in item.get("parameters", []):
                kind = parameter["schema"]["type"]
                self.assertIn(kind, ("integer", "string"), path)
        paths = self.described()["paths"]
        (parameter,) = paths["/shop/article/{pk}/get.json"]["parameters"]
        self.assertEqual(parameter["schema"], {"type": "integer"})

    def test_all_that_a_failure_may_hold_is_described(self):
        failure = self.described()["components"]["responses"]["failure"]
        schema = failure["content"]["application/json"]["schema"]
        strict = {**schema, "additionalProperties": False}
        csrf_client = Client(enforce_csrf_checks=True)
        refused = csrf_client.post("/ajax/shop/hello.json")
        elsewhere = csrf_client.post(
            "/ajax/shop/hello.json", headers={"Origin": "http://a.test"}
        )
        found = {"csrf", *refused.json()}
        jsonschema.validate(refused.json(), strict)
        jsonschema.validate(elsewhere.json(), strict)
        self.assertIs(elsewhere.json()["csrf"], True)
        with self.settings(DEBUG=True):
            for reply in (
                self.post("shop/nothing", status=404),
                self.post("shop/category", {"odd": 1}, status=400),
                self.ask(ValueError("?"), 500),
            ):
                jsonschema.validate(reply, strict)
                found |= {*reply}
            soup = Recipe.objects.create(title="Soup")
            self.serve(Recipe, version_field="changed")
            sent = {"changed": "2020-01-01T00:00:00Z"}
            reply = self.post(f"shop/recipe/{soup.pk}/update", sent, status=409)
            jsonschema.validate(reply, strict)
            found |= {*reply}
            self.client.logout()
            reply = self.post("shop/whoami", status=403)
        jsonschema.validate(reply, strict)
        self.assertEqual(found | {*reply}, {*schema["properties"]})

    def test_what_stands_beside_the_data_of_a_reply_is_described(self):
        paths = self.described()["paths"]
        for path, names in {
            "article/create": {"ignored", "hint"},
            "article/{pk}/update": {"ignored", "hint"},
            "article/{pk}/get": {"hint"},
            "article/{pk}/tags/similar": {"hint"},
            "article/{pk}/tags/add": set(),
            "article/{pk}/delete": set(),
        }.items():
            answer = paths[f"/shop/{path}.json"]["post"]["responses"]["200"]
            schema = answer["content"]["application/json"]["schema"]
            beside = {*schema["properties"]} - {"success", "data"}
            self.assertEqual(beside, names)
            self.assertEqual(schema["required"], ["success", "data"])

    def test_expansions_refer_to_what_their_model_looks_like_anywhere(self):
        schemas = self.described()["components"]["schemas"]
        record, pk = schemas["shop.article"]["properties"]["category"]["anyOf"]
        self.assertEqual(record, {"$ref": "#/components/schemas/shop.category"})
        self.assertEqual(pk["type"], ["integer", "null"])
        # A model that is only shown inside others is described, too.
        self.assertEqual([*schemas["auth.user"]["properties"]], ["pk", "username"])
        # What another endpoint expands is described where it is not expanded itself.
        self.serve(Category, expand=False)
        parent = self.described()["components"]["schemas"]["shop.category"]
        self.assertNotIn("anyOf", parent["properties"]["parent"])
        self.serve(Article, expand=["category__parent"])
        parent = self.described()["components"]["schemas"]["shop.category"]
        self.assertIn("anyOf", parent["properties"]["parent"])
        shown = self.post(f"{self.path}/get")["data"]
        self.assertEqual(shown["category"]["parent"]["title"], "News")
        self.post(f"shop/category/{self.local.pk}/get")
        self.register_encoder(Category, Tell())
        schemas = self.described()["components"]["schemas"]
        self.assertEqual(schemas["shop.category"], {"type": "object"})
        self.post(f"{self.path}/get")

    def test_filters_take_what_is_described(self):
        paths = self.described()["paths"]
        body = paths["/shop/specimen/list.json"]["post"]["requestBody"]
        schema = body["content"]["application/json"]["schema"]
        types = {key: each["type"] for key, each in schema["properties"].items()}
        for name, kinds in {
            "kind": ["string", "null", "array"],
            "text__icontains": ["string", "array"],
            "integer__gte": ["integer", "array"],
            "float__gt": ["number", "array"],
            "date__year": ["integer", "array"],
            "moment__date": ["string", "array"],
            "json__key": ["string", "number", "boolean", "array"],
            "country__isnull": ["boolean", "array"],
            "country__name__startswith": ["string", "array"],
        }.items():
            self.assertEqual(types[name], kinds)
        choices = [{"const": "a", "title": "A"}, {"const": "b", "title": "B"}]
        self.assertEqual(schema["properties"]["kind"]["x-ajax"]["choices"], choices)
        for sent in (
            {
                "kind": ["a", None],
                "date__year": [2024, 2025],
                "moment__date": "2024-05-06",
            },
            {"json__key": [1, "a", True], "country__isnull": [True, False]},
            {"integer__gte": [1], "float__gt": 1.5, "keepers": [self.user.pk, None]},
            {"order_by": ["char", "-integer"], "tags": ["red"]},
            {"order_by": "char,-integer", "tags": "red, green"},
        ):
            jsonschema.validate(sent, schema)
            self.post("shop/specimen/list", sent)
        self.serve(Specimen, list_filter=["email", "file"])
        taken, _kinds = self.body("/shop/specimen/list.json")
        for name in ("email", "file"):  # Any text may be looked for.
            self.assertNotIn("format", taken["properties"][name])
            self.post("shop/specimen/list", {name: "no address"})
        self.serve(Specimen, search_fields=["^char", "country__name"])
        taken, _kinds = self.body("/shop/specimen/list.json")
        description = taken["properties"]["search"]["description"]
        self.assertEqual(description, "Words to find in char, country__name.")

    def test_what_takes_no_parameters_has_no_body(self):
        source = """
            import ajax

            @ajax.validated
            def refresh(request):
                return 1

            def plain(request):
                return 1
            """
        with self.apps(zoo=source):
            paths = self.described()["paths"]
            self.assertNotIn("requestBody", paths["/zoo/refresh.json"]["post"])
            self.assertIn("requestBody", paths["/zoo/plain.json"]["post"])
            self.assertEqual([*self.errors("zoo/refresh", {"more": 1})], ["more"])

    def test_it_says_that_a_list_or_an_object_may_be_null(self):
        source = """
            import ajax

            @ajax.validated
            def f(request, texts: list[str] | None, object: dict | None = None):
                return [texts, object]
            """
        with self.apps(zoo=source):
            taken, _kinds = self.body("/zoo/f.json")
            self.post("zoo/f", {"texts": None, "object": None})
            self.post("zoo/f", {"texts": ["a"], "object": {"a": 1}})
        texts = {"type": ["array", "null"], "items": {"type": ["string"]}}
        self.assertEqual(taken["properties"]["texts"], texts)
        self.assertEqual(taken["properties"]["object"], {"type": ["object", "null"]})

    def test_a_component_that_nothing_uses_is_left_out(self):
        self.serve(Clip, operations=["delete"])
        self.assertNotIn("shop.clip", list(self.described()["components"]["schemas"]))
        # What only other records refer to is used.
        self.serve(Category, operations=["delete"])
        schemas = list(self.described()["components"]["schemas"])
        self.assertIn("shop.category", schemas)
        project = Project(self, DJANGO_FILES)
        project.append("blog/endpoints.py", "def hello(request): return 1")
        project.append("settings.py", "DEBUG = True")
        script = """
            def used():
                components = client.get("/ajax/openapi.json").json()["components"]
                return [sorted(kind) for kind in components.values()]
            """
        used = [[], ["failure"], ["csrf", "csrfCookie"]]
        project.assert_calls(script, ("used()", used))

    def test_a_name_of_other_letters_is_spelt_in_those_that_openapi_takes(self):
        project = Project(self, DJANGO_FILES)
        project.append("settings.py", "DEBUG = True")
        project.append(
            "blog/models.py",
            """
            class Straße(models.Model):
                name = models.CharField(max_length=100)
            """,
        )
        project.append(
            "blog/endpoints.py",
            """
            import ajax
            from .models import Straße
            ajax.endpoint.register(Straße)
            def größe(request): return 1
            """,
        )
        script = """
            described = client.get("/ajax/openapi.json").json()
            calls = [item["post"] for item in described["paths"].values()]
            """
        call = 'sorted(call["operationId"] for call in calls)[:2]'
        ids = ["blog.gr-C3-B6-C3-9Fe", "blog.stra-C3-9Fe.create"]
        schemas = ["blog.stra-C3-9Fe"]
        paths = ["/blog/größe.json", "/blog/straße/create.json"]
        project.assert_calls(
            script,
            (call, ids),
            ('list(described["components"]["schemas"])', schemas),
            ('list(described["paths"])[:2]', paths),
            ('post("blog/größe")', [200, 1]),
            ('post("blog/straße", {"name": "a"})', [200, {"pk": 1, "name": "a"}]),
        )

    def test_children_are_described_wherever_they_are_shown_or_left_out(self):
        fields = {
            Recipe: ["title", "ingredients", "portrait"],
            Ingredient: ["name", "recipe"],
        }
        soup = Recipe.objects.create(title="Soup")
        salt = Ingredient.objects.create(recipe=soup, name="Salt")
        # Each order of registering makes the same schemas.
        for models_in_order in ([Ingredient, Recipe], [Recipe, Ingredient]):
            with self.subTest(models_in_order):
                for model in models_in_order:
                    ajax.endpoint.unregister(model)
                    self.addCleanup(ajax.endpoint.register, model, KitchenEndpoint)
                for model in models_in_order:
                    self.serve(model, fields=fields[model])
                schemas = self.described()["components"]["schemas"]
                required = schemas["shop.recipe"]["required"]
                self.assertEqual(required, ["pk", "title", "ingredients", "portrait"])
                self.assertEqual([*schemas["shop.recipe"]["properties"]], required)
                required = schemas["shop.ingredient"]["required"]
                self.assertEqual(required, ["pk", "recipe", "name"])
                recipe = schemas["shop.ingredient"]["properties"]["recipe"]["anyOf"][0]
                name = "shop.recipe-without-ingredients"
                self.assertEqual(recipe, {"$ref": f"#/components/schemas/{name}"})
                self.assertEqual(schemas[name]["required"], ["pk", "title", "portrait"])
                # The replies are as the schemas say.
                self.assertNotIn("ingredients", self.shown(salt)["recipe"])
                self.assertEqual(self.shown(soup)["ingredients"][0]["name"], "Salt")
                self.doCleanups()

    def test_the_empty_text_is_not_one_of_several_choices(self):
        field = forms.MultipleChoiceField(choices=[("a", "A")], required=False)
        self.serve(type("PickForm", (forms.Form,), {"picks": field}), authenticate=yes)
        taken, _kinds = self.body("/shop/pickform.json")
        choices = taken["properties"]["picks"]["items"]["oneOf"]
        self.assertEqual(choices, [{"const": "a", "title": "A"}])
        for picks in ([], ["a"]):
            self.assertEqual(
                self.post("shop/pickform", {"picks": picks})["data"], {"picks": picks}
            )
        self.errors("shop/pickform", {"picks": ["a", ""]})

    def test_a_hint_beside_what_functions_and_forms_reply_is_described(self):
        self.serve(Category, authenticate=no)
        paths = self.described()["paths"]
        for path in ("ask", "contactform", "article/publish", "article/{pk}/publish"):
            answer = paths[f"/shop/{path}.json"]["post"]["responses"]["200"]
            schema = answer["content"]["application/json"]["schema"]
            self.assertEqual([*schema["properties"]], ["success", "data", "hint"])
            self.assertEqual(schema["required"], ["success", "data"])
        with self.settings(DEBUG=True):
            self.assertIn("hint", self.ask(lambda request: self.article))


# --- Explorer -------------------------------------------------------------------------


#: What answers in the place of openapi.json, while a test wants that.
openapi_answers = []


def be_strict(get_response):
    """Set a policy; and as all threads share the tests' connection, one at a time."""
    lock = threading.Lock()

    def answer(request):
        if openapi_answers and request.path.endswith("openapi.json"):
            return openapi_answers[0]
        with lock:
            response = get_response(request)
        response["Content-Security-Policy"] = "default-src 'self'"
        return response

    return answer


@contextlib.contextmanager
def patch_openapi(response):
    """Let openapi.json be answered so."""
    openapi_answers.append(response)
    try:
        yield
    finally:
        openapi_answers.clear()


MARKUP = "<b onclick=\"x\">'bold'</b>\u2028&amp; `${1}`"


class Odd(models.Model):
    """A model of <i>markup</i>, with 200 more columns."""

    char = models.CharField(
        help_text=MARKUP, max_length=300, blank=True, choices=[(MARKUP, MARKUP)]
    )
    for _number in range(200):
        locals()[f"column_{_number}"] = models.CharField(max_length=9, blank=True)


@override_settings(
    DEBUG=True,
    STATIC_URL="/static/",
    MIDDLEWARE=["test_ajax.be_strict", *settings.MIDDLEWARE],
)
class Explorer(BrowserTestCase):
    """The page at the mount, under a strict policy."""

    apps, serve = EndpointHelpers.apps, EndpointHelpers.serve

    def setUp(self):
        super().setUp()
        self.resize(1280)

    def resize(self, width, height=900):
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        command = "Emulation.setDeviceMetricsOverride"
        self.browser.execute_cdp_cmd(command, {**size, "mobile": False})

    def emulate(self, **features):
        """Let the browser prefer something until the test ends."""
        pairs = [
            {"name": name.replace("_", "-"), "value": value}
            for name, value in features.items()
        ]
        command = "Emulation.setEmulatedMedia"
        self.browser.execute_cdp_cmd(command, {"features": pairs})
        self.addCleanup(self.browser.execute_cdp_cmd, command, {"features": []})

    def explore(self, where="", user=True):
        self.browser.get("about:blank")
        self.visit(f"/ajax/#{where}", self.user if user else None)
        self.wait("#calls a, #problem:not(:empty)")

    def go(self, where):
        """Follow a link within the page, or type an address there."""
        self.browser.execute_script("location.hash = arguments[0]", where)
        self.wait("h2:focus")

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def find_all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def texts(self, selector):
        """Return the texts of many elements at once, on one line each."""
        script = """
            const elements = document.querySelectorAll(arguments[0]);
            return Array.from(elements, element => element.innerText);
        """
        texts = self.browser.execute_script(script, selector)
        return [" ".join(text.split()) for text in texts]

    def wait(self, selector):
        """Wait until something is there; return it."""
        return self.wait_until(lambda: self.find_all(selector))[0]

    def wait_until(self, condition):
        """Wait until a function returns something true; return that."""
        wait = WebDriverWait(self.browser, 10, 0.02)
        return wait.until(lambda browser: condition())

    def box(self, name):
        return self.find(f"article [id$=':{name}']")

    def value(self, name):
        return self.box(name).get_attribute("value")

    def fill(self, **values):
        for name, value in values.items():
            box = self.box(name)
            if box.tag_name == "select":
                Select(box).select_by_visible_text(value)
            else:
                box.send_keys(value)

    def replace(self, **values):
        for name in values:
            self.box(name).clear()
        self.fill(**values)

    def send_special(self, name, text):
        """Tick the box that sends null, "" or [] as a field."""
        button = self.find(f"article [aria-label='Send {text} as {name}']")
        # The bar is above what stands at the bottom.
        script = "arguments[0].scrollIntoView({block: 'center'})"
        self.browser.execute_script(script, button)
        button.click()

    def forget_reply(self):
        script = """
            document.querySelector(".status").replaceChildren();
            document.querySelector(".reply").hidden = true;
        """
        self.browser.execute_script(script)

    def press(self):
        """Press the button; return the status, and the reply."""
        self.forget_reply()
        self.find("[type=submit]").click()
        with contextlib.suppress(NoAlertPresentException):
            self.browser.switch_to.alert.accept()
        return self.status(), self.reply()

    def status(self):
        return self.wait("article .chip").text

    def reply(self):
        code = self.wait(".reply:not([hidden]) pre")
        return json.loads(code.get_property("textContent"))

    def complaint(self):
        return self.find("article [role=status] span.bad").text

    def error_of(self, name):
        """Return the error behind a box, which the box is described by, or None."""
        last_id = self.box(name).get_attribute("aria-describedby").split()[-1]
        texts = self.find_all(f"[id='{last_id}'].ajax-error")
        return texts[0].text if texts else None

    def sample(self, title):
        return self.find(f"pre[aria-label='{title}']").text

    def wait_for_record(self):
        text = "The record is loaded."
        self.wait_until(lambda: self.find("article .status").text == text)

    @contextlib.contextmanager
    def answers(self, answer):
        """Let the function `ask` answer by a function of the request."""
        answer = mock.Mock(side_effect=answer)
        with mock.patch.object(ask, "answer", answer, create=True):
            yield answer

    # The start page

    def test_it_begins_with_a_table_of_all_calls_by_app(self):
        with self.apps(stock='"The `stock`."\ndef count(request):\n    "Count."\n'):
            self.explore()
            tables = {
                table.find_element("css selector", "caption").text: table
                for table in self.find_all("#table table")
            }
            self.assertIn("stock 1", tables)
            shop = next(name for name in tables if name.startswith("shop "))
            self.assertRegex(shop, r"^shop \d+$")
            heads = tables[shop].find_elements("css selector", "thead th")
            titles = [head.text for head in heads]
            self.assertEqual(titles, ["Call", "What it does", "Who may call"])
            self.assertIn("The `stock`.", self.find("#about").text)
            rows = self.texts("#table tbody tr")
            self.assertIn("count Count. Everybody.", rows)
            row = next(row for row in rows if row.startswith("article/list"))
            self.assertTrue(
                row.endswith("Logged-in users, if ArticleEndpoint.can_list allows.")
            )
            self.assertEqual(len(rows), len(self.find_all("#calls a")))
            self.find("#filter").send_keys("stock")
            self.assertEqual(self.texts("#table tbody"), rows[-1:])
            self.find("#table a").click()
            self.assertEqual(self.wait("h2:focus").text, "stock/count")

    def test_words_find_a_call_by_its_name_summary_fields_and_who_may_call(self):
        self.explore()
        count = len(self.find_all("#calls a"))
        for words, names in {
            "WHOAMI": ["whoami"],
            "pr*ce": [],
            "new article/ saVe": ["create"],
            "specimen boolean create": ["create"],
            "shop/article tags share": ["{pk}/tags/similar"],
            "articleendpoint.can_delete": ["{pk}/delete"],
            "nothing like this": [],
        }.items():
            with self.subTest(words):
                self.find("#filter").clear()
                self.find("#filter").send_keys(words)
                self.assertEqual(self.texts("#calls a"), names)
                said = self.find("#found").text
                self.assertEqual(said, f"{len(names)} of {count} calls.")

    def test_calls_are_found_by_a_pasted_path_url_or_line_of_javascript(self):
        self.explore()
        count = len(self.find_all("#calls a"))
        site = self.live_server_url
        for pasted, heading, pk in (
            (f"{site}/ajax/shop/article/7/get.json", "article/{pk}/get", "7"),
            ("shop/country/a%2Fb/update", "country/{pk}/update", "a/b"),
            ("/ajax/shop/article.json", "article/create", None),
            ("/ajax/shop/hello.json", "hello", None),
            (f"{site}/ajax/#shop/article/8/delete", "article/{pk}/delete", "8"),
            ("#shop/article/{pk}/get", "article/{pk}/get", "8"),
            ('await ajax("shop/article/9/get");', "article/{pk}/get", "9"),
            ("ajax.reply('shop/article/list', {search: 1})", "article/list", None),
        ):  # fmt: skip
            script = """
                const box = document.querySelector("#filter");
                box.value = arguments[0];
                box.dispatchEvent(new InputEvent("input"));
                box.form.requestSubmit();
            """
            with self.subTest(pasted):
                self.browser.execute_script(script, pasted)
                title = f"shop/{heading}"
                self.wait_until(lambda title=title: self.find("main h2").text == title)
                if pk:
                    self.assertEqual(self.value("pk"), pk)
                # The list shows all calls again.
                self.assertEqual(self.value_of_filter(), "")
                self.assertEqual(len(self.find_all("#calls a")), count)
        self.wait_until(lambda: self.find("[aria-current]").text == "list")
        self.assert_refused(404, 404)  # There are no such records to load.

    def value_of_filter(self):
        return self.find("#filter").get_attribute("value")

    def test_a_broken_endpoints_py_is_named_until_it_is_mended(self):
        with self.apps(broken="import nothing_there"):
            self.explore()
            said = self.find("#problem").text
            self.assertIn("broken.endpoints cannot be imported", said)
            self.assertIn("nothing_there", said)
        self.explore()
        self.assertTrue(self.find_all("#calls a"))
        self.assertFalse(self.find("#problem").is_displayed())
        self.assert_refused(500)

    def test_it_says_who_is_logged_in_and_where_visitors_log_in(self):
        self.explore()
        self.assertEqual(self.find("#you").text, "You are logged in as ann.")
        self.explore("shop/whoami", user=False)
        self.assertEqual(self.find("#you").text, "You are not logged in. Log in")
        link = self.find("#you a").get_attribute("href")
        self.assertEqual(link.partition("next=")[2], quote("/ajax/#shop/whoami", ""))

    @override_settings(DEBUG=False)
    def test_staff_whose_session_ended_are_led_to_the_login(self):
        self.user.is_staff = True
        self.user.save()
        self.explore("shop/hello")
        self.browser.delete_cookie("sessionid")
        self.browser.refresh()
        link = self.wait("p a")
        self.assertEqual(link.text, "Log in")
        login, _question_mark, query = link.get_attribute("href").partition("?")
        self.assertEqual(login, f"{self.live_server_url}/accounts/login/")
        self.assertEqual(query, "next=%2Fajax%2F")
        self.assert_refused(404)

    def test_it_says_that_openapi_json_cannot_be_loaded(self):
        login = {"success": False, "data": {"message": "No."}, "login_url": "/in/"}
        for response, said, you in (
            (HttpResponse("<b>Down</b>", status=502), "The server answered 502.", ""),
            (JsonResponse(login, status=404), "The server answered 404. No.", "Log in"),
            (JsonResponse({"paths": 5}), "The server answered 200.", ""),
            (HttpResponse(""), "The server answered 200.", ""),
        ):
            with self.subTest(said), patch_openapi(response):
                self.explore()
                self.assertEqual(
                    self.find("#problem").text, f"openapi.json cannot be loaded. {said}"
                )
                self.assertEqual(self.find("#you").text, you)
                self.assertFalse(self.find("#about").is_displayed())
        self.assert_refused(502, 404)

    # One call

    def test_a_record_is_created_read_changed_tagged_and_deleted(self):
        self.explore("shop/article/create")
        self.assertIn(
            "Who may call: Logged-in users.",
            self.find("article header").text,
        )
        self.fill(title="x" * 201, price="a lot")
        status, _reply = self.press()
        self.assertEqual(status, "400 Bad Request")
        line = self.find("article [role=status] small").text
        self.assertRegex(line, r"^[\d,]+ ms, [\d,]+ bytes$")
        self.assertEqual(self.complaint(), "Please correct the errors.")
        for name, message in {
            "title": "at most 200 characters", "price": "Enter a number.",
            "category": "cannot be null",
        }.items():  # fmt: skip
            self.assertEqual(self.box(name).get_attribute("aria-invalid"), "true")
            self.assertIn(message, self.error_of(name))
        self.assertEqual(self.browser.switch_to.active_element, self.box("category"))
        self.replace(title="New", price="1.5", category=str(self.news.pk))
        self.assertIsNone(self.error_of("title"))
        self.fill(tags="a, b c")
        status, reply = self.press()
        self.assertEqual(status, "200 OK")
        record = reply["data"]
        self.assertEqual(self.box("title").get_attribute("aria-invalid"), "false")
        self.assertEqual([tag["name"] for tag in record["tags"]], ["a", "b c"])
        for name in ("update", "get", "tags/similar", "tags/clear", "delete"):
            # The pk goes with it.
            self.find(f"nav a[href$='article/{{pk}}/{name}']").click()
            self.wait_until(lambda name=name: self.wait("h2:focus").text.endswith(name))
            self.assertEqual(self.value("pk"), str(record["pk"]))
            if name == "update":
                self.wait_for_record()
                self.replace(title="Newer")
            status, reply = self.press()
            self.assertEqual(status, "200 OK", reply)
        self.assertFalse(Article.objects.filter(title="Newer").exists())
        self.assertEqual(reply["data"], {"pk": record["pk"]})
        self.assert_refused(400)

    def test_delete_and_clear_have_a_red_button_and_ask_first(self):
        path_ = f"shop/article/{self.article.pk}"
        for name, label, question in (
            ("delete", "Delete", "Delete this record?"),
            ("tags/clear", "Clear", "Remove all tags of this record?"),
        ):
            self.explore(f"{path_}/{name}")
            if name == "delete":  # Which record it is stands below its pk.
                self.wait_for_record()
                title = self.find(".note:not(:empty)").text
                self.assertEqual(title, self.article.title)
            button = self.find("[type=submit]")
            self.assertEqual(button.text, label)
            red = "rgba(179, 38, 30, 1)"
            self.assertEqual(button.value_of_css_property("background-color"), red)
            button.click()
            alert = self.browser.switch_to.alert
            self.assertEqual(alert.text, f"{question}\n{path_}/{name}")
            alert.dismiss()
            self.assertFalse(self.find_all(".chip"))
        self.assertTrue(Article.objects.filter(pk=self.article.pk).exists())

    def test_each_kind_of_box_sends_what_it_holds(self):
        file = tempfile.NamedTemporaryFile("w", suffix=".txt")
        self.addCleanup(file.close)
        print("words", file=file, flush=True)
        self.explore("shop/specimen/create")
        self.fill(
            text="words", kind="B", integer="7", big=str(2**60),
            ticked="false", json='{"a": [1]}', file=file.name, decimal="1.50",
            keepers=f"{self.user.pk}, {self.other.pk}", words="null",
        )  # fmt: skip
        self.fill(char="typed")
        self.send_special("char", "null")
        self.send_special("char", '""')
        for name in ("boolean", "country", "date", "time", "moment"):
            self.send_special(name, "null")
        _status, reply = self.press()
        self.assertTrue(reply["success"], reply)
        record = reply["data"]
        for name, value in {
            "char": "", "text": "words", "kind": "b", "json": {"a": [1]},
            "words": "null", "date": None, "time": None, "moment": None,
        }.items():  # fmt: skip
            self.assertEqual(record[name], value, name)
        specimen = Specimen.objects.get()
        values = (specimen.integer, specimen.big, specimen.boolean, specimen.ticked)
        self.assertEqual(values, (7, 2**60, None, False))
        self.assertEqual(specimen.keepers.count(), 2)
        self.assertIn("/media/specimens/", record["file"])
        self.explore("shop/ask")
        with self.answers(lambda request: request.data):
            for text, data in (('{"a": [null]}', {"a": [None]}), ("[1]", [1])):
                self.replace(body=text)
                self.assertEqual(self.press()[1]["data"], data)
        self.box("body").send_keys("{")
        self.find("[type=submit]").click()
        self.assertTrue(self.box("body").get_property("validationMessage"))

    def test_a_choice_of_several_and_a_moment_are_sent(self):
        self.explore("shop/pollform")
        hours = Select(self.box("hours"))
        self.assertTrue(hours.is_multiple)
        hours.select_by_index(0)
        self.set_value("day", "2026-01-31")
        self.assertIn('{day: "2026-01-31", hours: ["am"]}', self.sample("JavaScript"))
        self.explore("shop/specimen/create")
        self.set_value("moment", "2026-01-31T12:00")
        # It is a moment of the server's clock.
        self.assertIn('moment: "2026-01-31T12:00"', self.sample("JavaScript"))

    def test_several_files_are_chosen_in_one_box(self):
        class PlansForm(forms.Form):
            prefix = "p"
            plans = RepeatedFileField()

            def save(self):
                return [file.read().decode() for file in self.cleaned_data["plans"]]

        self.serve(PlansForm)
        self.explore("shop/plansform")
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, name) for name in ("a.txt", "b.txt")]
            for path_ in paths:
                path_.write_text(path_.name)
            self.fill(**{"p-plans": "\n".join(map(str, paths))})
            self.assertEqual(self.press()[1]["data"], ["a.txt", "b.txt"])
            script, curl = self.sample("JavaScript"), self.sample("curl")
            self.assertIn('{"p-plans": input.files}', script)
            session = {"SESSION": self.client.cookies["sessionid"].value}
            line = f"cd {folder}; {curl} -s"
            output = Project(self, {}).run_program("bash", "-c", line, **session)
            self.assertEqual(json.loads(output)["data"], ["a.txt", "b.txt"])

    def set_value(self, name, value):
        script = """
            arguments[0].value = arguments[1];
            for (const type of ["input", "change"]) {
              arguments[0].dispatchEvent(new Event(type, {bubbles: true}));
            }
        """
        self.browser.execute_script(script, self.box(name), value)

    def test_update_is_filled_from_get_and_sends_what_was_changed(self):
        specimen = Specimen.objects.create(
            char="abc", text="One\ntwo", kind="a", integer=7, boolean=True,
            json={"a": [1]}, moment="2026-01-31T12:00:05.25Z",
            date="2026-01-31", time="12:00:05.25",
        )  # fmt: skip
        specimen.keepers.set([self.user, self.other])
        path_ = f"shop/specimen/{specimen.pk}/update"
        self.explore(path_)
        self.wait_for_record()
        self.assertEqual(self.sample("JavaScript"), f'await ajax("{path_}");')
        self.assertEqual(self.value("char"), "abc")
        self.assertEqual(self.value("text"), "One\ntwo")
        self.assertEqual(self.value("integer"), "7")
        self.assertEqual(self.value("date"), "2026-01-31")
        self.assertEqual(self.value("time"), "12:00:05.250")
        self.assertEqual(json.loads(self.value("json")), {"a": [1]})
        self.assertEqual(self.value("keepers"), f"{self.user.pk}, {self.other.pk}")
        status, _reply = self.press()
        self.assertEqual(status, "200 OK")
        stored = Specimen.objects.values().get(pk=specimen.pk)
        for name in ("char", "integer"):
            self.box(name).clear()
        self.replace(text="Three")
        self.fill(kind="B", boolean="false")
        self.send_special("date", "null")
        self.send_special("keepers", "[]")
        line = self.sample("JavaScript")
        for text in ('char: ""', "integer: null", 'text: "Three"', 'kind: "b"',
                     "boolean: false", "date: null", "keepers: []"):  # fmt: skip
            self.assertIn(text, line)
        self.assertEqual(line.count(": "), 7, line)
        _status, reply = self.press()
        self.assertTrue(reply["success"], reply)
        changed = Specimen.objects.values().get(pk=specimen.pk)
        names = {name for name in stored if stored[name] != changed[name]}
        expected = {"char", "integer", "text", "kind", "boolean", "date"}
        self.assertEqual(names, expected)
        self.assertEqual(specimen.keepers.count(), 0)
        # The call that was made can be copied, until something is changed again.
        self.assertEqual(self.sample("JavaScript"), line)
        self.replace(text="Four")
        line = f'await ajax("{path_}", {{text: "Four"}});'
        self.assertEqual(self.sample("JavaScript"), line)

    def test_what_was_read_before_is_read_again(self):
        self.explore("shop/article/list")
        self.press()
        self.go(f"shop/article/{self.article.pk}/update")
        self.wait_for_record()
        self.replace(title="Newer")
        self.press()
        self.go("shop/article/list")
        self.wait_until(lambda: "Newer" in self.find(".reply tbody").text)

    def test_the_last_pk_is_the_one_that_is_loaded(self):
        other = Article.objects.create(
            title="Other", category=self.news, author=self.user, price=1
        )
        self.explore(f"shop/article/{self.article.pk}/update")
        self.wait_for_record()
        self.assertEqual(self.value("title"), self.article.title)
        self.set_value("pk", "99999")
        self.set_value("pk", str(other.pk))
        self.wait_until(lambda: self.value("title") == "Other")
        self.set_value("pk", "99999")
        self.wait_until(lambda: "not found" in self.find("article .status").text)
        self.set_value("pk", str(other.pk))
        self.wait_for_record()
        self.replace(title="Typed")
        Article.objects.filter(pk=other.pk).update(title="Changed")
        self.find(".line button").click()
        self.wait_until(lambda: self.value("title") == "Changed")
        self.assert_refused(404, 404)

    def test_the_version_that_was_read_is_sent(self):
        self.serve(Recipe, version_field="changed")
        recipe = Recipe.objects.create(title="Soup")
        self.explore(f"shop/recipe/{recipe.pk}/update")
        self.wait_for_record()
        self.replace(title="Stew")
        sent = json.loads(re.search(r"-d '(.*)'", self.sample("curl"))[1])
        self.assertEqual(sent.keys(), {"title", "changed"})
        self.assertEqual(self.press()[0], "200 OK")
        self.replace(title="Broth")
        self.assertEqual(self.press()[0], "200 OK")
        recipe.save()
        self.replace(title="Cake")
        self.assertEqual(self.press()[0], "409 Conflict")
        self.assertIn("Somebody else has changed", self.complaint())
        self.find(".line button").click()
        self.wait_for_record()
        self.go(f"shop/recipe/{recipe.pk}/delete")
        self.wait_for_record()
        self.assertEqual(self.press()[0], "200 OK")
        self.assert_refused(409)

    def test_typed_values_stay_while_the_page_is_open(self):
        self.explore("shop/article/create")
        self.fill(title="Typed", published="true")
        self.go("shop/hello")
        self.go("")
        self.assertTrue(self.find("#table").is_displayed())
        self.browser.back()
        self.browser.back()
        self.wait_until(lambda: self.find("h2").text == "shop/article/create")
        self.assertEqual(self.value("title"), "Typed")
        self.assertEqual(self.value("published"), "true")

    def test_related_records_are_searched_by_what_is_typed(self):
        keys = webdriver.Keys
        self.serve(Category, can_list=yes, search_fields=["title"])
        sport = Category.objects.create(title="Sport")
        self.explore("shop/article/create")
        box = self.box("category")
        box.send_keys("spo")
        option = self.wait(".options option")
        self.assertEqual(option.text, f"Sport ({sport.pk})")
        self.assertEqual(len(self.find_all(".options option")), 1)
        self.assertEqual(self.find(".note:not(:empty)").text, "Choices: 1.")
        self.choose_record("Sport")
        self.assertEqual(self.browser.switch_to.active_element, box)
        self.assertEqual(self.value("category"), str(sport.pk))
        self.assertEqual(self.find(".note:not(:empty)").text, f"Sport ({sport.pk})")
        self.assertIn(f"category: {sport.pk}", self.sample("JavaScript"))
        box.clear()
        box.send_keys(keys.ARROW_DOWN)
        box.send_keys("news")
        self.wait_until(lambda: "News" in self.find(".options").text)
        # By the keyboard the arrow leads there, as Tab does.
        box.send_keys(keys.ARROW_DOWN)
        records = self.browser.switch_to.active_element
        self.assertEqual(records.get_attribute("class"), "options")
        records.send_keys(keys.ARROW_DOWN)
        self.assertEqual(self.value("category"), str(self.news.pk))
        # Enter takes it, and does not send the form.
        records.send_keys(keys.ENTER)
        self.assertEqual(self.browser.switch_to.active_element, box)
        self.assertFalse(self.find(".options").is_displayed())
        self.assertFalse(self.find_all(".chip"))
        # A click shows all of them again, whichever is chosen.
        box.click()
        self.wait_until(lambda: "Sport" in self.find(".options").text)
        self.assertIn("News", self.find(".options").text)
        # A pk can still be typed.
        box.clear()
        box.send_keys(str(sport.pk), keys.TAB)
        self.assertEqual(self.value("category"), str(sport.pk))

    def choose_record(self, title):
        """Click, as a person does, on one of the records that are found."""

        def find_option():
            for option in self.find_all(".options option"):
                if option.text.startswith(title):
                    return option

        option = self.wait_until(find_option)
        webdriver.ActionChains(self.browser).click(option).perform()
        self.wait_until(lambda: not self.find_all(".options option"))

    def test_members_are_searched_in_the_first_page_and_added(self):
        self.serve(User, can_list=yes, require_permissions=False)
        self.explore("shop/specimen/create")
        box = self.box("keepers")
        box.send_keys("ann")
        self.choose_record("ann")
        self.assertEqual(self.value("keepers"), str(self.user.pk))
        box.send_keys(", bob")
        self.choose_record("bob")
        self.assertEqual(self.value("keepers"), f"{self.user.pk}, {self.other.pk}")

    def test_what_comes_back_is_said_before_the_first_call(self):
        self.explore("shop/article/list")
        outline = self.find(".outline")
        lines = dict(zip(
            [term.text for term in outline.find_elements("css selector", "dt")],
            [term.text for term in outline.find_elements("css selector", "dd")],
            strict=True,
        ))  # fmt: skip
        self.assertEqual(lines["data"], "list (record of shop/article)")
        self.assertEqual(lines["data[0].title"], "text")
        self.assertEqual(lines["total"], "whole number")
        self.explore("shop/hello")
        self.assertIn("data any JSON", " ".join(self.find("dl").text.split()))

    def test_a_filter_by_a_field_with_choices_offers_them(self):
        self.explore("shop/specimen/list")
        choices = Select(self.box("kind"))
        self.assertEqual(
            [option.text for option in choices.options], ["not sent", "A", "B"]
        )
        self.box("kind").send_keys("B")
        self.assertIn('kind: "b"', self.sample("JavaScript"))
        self.press()
        self.assertEqual(self.status()[:3], "200")
        self.assertEqual(self.find(".reply small").text[:8], "0 in all")
        # The status is that of the values that were sent.
        self.box("kind").send_keys("A")
        self.assertFalse(self.find_all(".chip"))

    # The reply

    def test_a_list_is_a_table_with_pager_sort_and_links(self):
        for number in range(3):
            Article.objects.create(
                title=f"T{number}", category=self.news, author=self.user, price=1
            )
        self.explore("shop/article/list")
        order = Select(self.box("order_by"))
        titles = [option.text for option in order.options]
        self.assertIn("-title", titles)
        self.fill(items_per_page="3")
        self.press()
        self.assertEqual(self.find(".reply small").text, "4 in all, page 1 of 2")
        self.assertEqual(len(self.find_all(".reply tbody tr")), 3)
        self.find_button("Next").click()
        self.wait_until(lambda: len(self.find_all(".reply tbody tr")) == 1)
        self.assertFalse(self.find_button("Next").is_enabled())
        self.assertIn("current_page: 2", self.sample("JavaScript"))
        focused = self.browser.switch_to.active_element
        self.assertEqual(focused.get_attribute("class"), "reply")
        # Whatever else is looked for begins with its first page.
        self.fill(items_per_page="2")
        self.assertNotIn("current_page", self.sample("JavaScript"))
        self.fill(items_per_page="3")
        for sign, direction in (("", "ascending"), ("-", "descending")):
            self.find_button("title").click()
            head = self.wait(f".reply th[aria-sort={direction}]")
            self.assertEqual(head.text[:5], "title")
            self.assertIn(f'order_by: "{sign}title"', self.sample("JavaScript"))
        row = self.find(".reply tbody tr")
        self.assertIn("T2", row.text)
        self.assertIn("News", row.text)  # The category's title, not its pk.
        self.assertFalse(self.find(".reply pre").is_displayed())
        self.find(".reply summary").click()
        self.assertTrue(self.find(".reply pre").is_displayed())
        pk = self.reply()["data"][0]["pk"]
        links = row.find_elements("css selector", "a")
        names = [link.text for link in links]
        self.assertLess({"get", "update", "delete"}, set(names))
        links[names.index("update")].click()
        self.wait_for_record()
        self.assertEqual(self.value("pk"), str(pk))
        self.assertEqual(self.value("title"), "T2")

    def find_button(self, text):
        for button in self.find_all(".reply button"):
            if button.text.split()[0] == text:
                return button
        self.fail(f"There is no button {text}.")

    def test_the_reply_and_the_first_wrong_box_are_in_view(self):
        self.serve(Odd, can_list=yes)
        for width in (1440, 1280, 390):
            with self.subTest(width):
                self.resize(width)
                self.explore("shop/odd/list")
                self.press()
                self.assert_in_view(".chip")
                self.assert_in_view(".reply")
                self.explore("shop/odd/create")
                self.set_value("column_100", "x" * 10)
                self.browser.execute_script("scrollTo(0, 9999)")
                self.press()
                self.assert_in_view(".chip")
                self.assert_in_view("[aria-invalid=true]")
        self.assert_refused(*[400] * 3)

    def assert_in_view(self, selector):
        script = """
            const {top, bottom} = arguments[0].getBoundingClientRect();
            return bottom > 0 && top >= -1 && top < innerHeight;
        """
        element = self.find(selector)
        self.assertTrue(self.browser.execute_script(script, element), selector)

    def test_one_call_runs_at_a_time(self):
        release = threading.Event()
        self.addCleanup(release.set)
        started = threading.Event()

        def wait(request):
            started.set()
            release.wait(10)
            return "Late."

        self.explore("shop/ask")
        with self.answers(wait) as answer:
            button = self.find("[type=submit]")
            button.click()
            started.wait(10)
            self.assertEqual(button.get_attribute("aria-disabled"), "true")
            self.assertEqual(self.find("article .status").text, "Calling …")
            button.click()
            button.send_keys(webdriver.Keys.ENTER)
            release.set()
            self.assertEqual(self.reply()["data"], "Late.")
            self.assertEqual(button.get_attribute("aria-disabled"), "false")
            self.assertEqual(answer.call_count, 1)
            self.assertEqual(self.press()[1]["data"], "Late.")

    def test_replies_of_every_shape_are_shown(self):
        html = "<b>bold</b>"
        long = "x" * 5_000_000
        self.explore("shop/ask")
        for response, text in (
            (HttpResponse(html), html),
            (HttpResponse(""), ""),
            (HttpResponse("", "application/json"), ""),
            (HttpResponse("{", "application/json"), "{"),
            (HttpResponse(b"\x00\xff", "image/png"), "image/png"),
            (JsonResponse(None, safe=False), "null"),
            (JsonResponse([5, [], None], safe=False), "[\n  5,\n  [],\n  null\n]"),
            (JsonResponse({"data": 5}), '{\n  "data": 5\n}'),
            (HttpResponse(html, status=500), html),
            (HttpResponse(status=204), ""),
        ):  # fmt: skip
            with self.subTest(text=text), self.answers(lambda request: response):  # noqa: B023
                self.forget_reply()
                self.find("[type=submit]").click()
                self.assertTrue(self.status().startswith(str(response.status_code)))
                shown = self.find(".reply pre").get_property("textContent")
                self.assertEqual(shown, text)
                self.assertFalse(self.find_all(".reply b"))
        with self.answers(lambda request: {"text": long, "rows": [{}]}):
            self.forget_reply()
            self.find("[type=submit]").click()
            self.status()
        shown = self.find(".reply pre").get_property("textContent")
        self.assertEqual(len(shown), 500_000)
        head = self.find(".reply .head").text
        self.assertRegex(head, r"^The first 500000 of 50000\d\d characters\.$")
        rows = [{"a": number, "b": None} for number in range(300)]
        with self.answers(lambda request: [*rows, {"c": [1, {"pk": 5}]}]):
            self.forget_reply()
            self.find("[type=submit]").click()
            self.status()
        self.assertEqual(len(self.find_all(".reply tbody tr")), 301)
        rows = [{"a": number, "b": None} for number in range(15_000)]
        with self.answers(lambda request: rows):
            self.forget_reply()
            self.find("[type=submit]").click()
            self.status()
        self.assertFalse(self.find(".table").is_displayed())
        self.assertTrue(self.find(".reply pre").is_displayed())
        self.assert_refused(500)

    def test_a_server_that_cannot_be_reached_is_said(self):
        self.explore("shop/hello")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0}
        offline["uploadThroughput"] = 0
        command = self.browser.execute_cdp_cmd
        command("Network.enable", {})
        command("Network.emulateNetworkConditions", offline)
        try:
            self.find("[type=submit]").click()
            self.assertEqual(self.status(), "No reply")
            self.assertEqual(self.complaint(), "The server cannot be reached.")
        finally:
            online = {**offline, "offline": False, "downloadThroughput": -1}
            online["uploadThroughput"] = -1
            command("Network.emulateNetworkConditions", online)
        self.press()
        self.assert_refused("net::ERR_INTERNET_DISCONNECTED")

    def test_a_refusal_says_what_to_do_and_where_to_log_in(self):
        self.serve(Category, can_list=no)
        self.explore("shop/category/list")
        self.press()
        self.assertIn("can_list of CategoryEndpoint returned False", self.complaint())
        self.explore("shop/whoami")
        self.browser.delete_cookie("sessionid")
        self.press()
        link = self.find("article [role=status] a").get_attribute("href")
        self.assertEqual(link.partition("next=")[2], quote("/ajax/#shop/whoami", ""))
        self.assert_refused(403, 403)

    def test_what_was_sent_and_not_written_is_said(self):
        reply = {"success": True, "data": {}, "ignored": ["author", "created"]}
        self.explore("shop/ask")
        with self.answers(lambda request: JsonResponse(reply)):
            self.press()
            note = self.find_all("article [role=status] small")[1].text
            self.assertEqual(note, "Not saved, as read-only: author, created.")
            del reply["ignored"]
            self.press()
        self.assertEqual(len(self.find_all("article [role=status] small")), 1)

    def test_errors_of_any_shape_are_shown(self):
        self.explore("shop/contactform")
        for data, errors, line, said in (
            ({"message": "Bad."}, {"email": "One."}, "Bad.", "One."),
            ({"message": "Bad."}, {"email": {"a": ["One.", 2]}}, "Bad.", "One. 2"),
            ({"message": "Bad."}, {"odd": [["?"]]}, "Bad.\nodd: ?", ""),
            ({"message": "Bad."}, ["One.", "Two."], "Bad.\nOne. Two.", ""),
            ({"message": "Bad."}, "Text.", "Bad.\nText.", ""),
            ({"message": "Bad."}, {"email": None}, "Bad.", ""),
            ({"message": "Bad."}, None, "Bad.", ""),
            (None, 5, "5", ""),
        ):
            with self.subTest(errors=errors):
                reply = {"success": False, "data": data, "errors": errors}
                response = JsonResponse(reply, status=400)
                answer = mock.Mock(return_value=response)
                with mock.patch.object(ContactEndpoint, "create", answer):
                    status, shown = self.press()
                self.assertEqual(shown, reply)
                self.assertEqual(status, "400 Bad Request")
                self.assertEqual(self.complaint(), line)
                texts = [element.text for element in self.find_all(".ajax-error")]
                self.assertEqual("".join(texts), said)
                self.assert_refused(400)

    # The same call as code

    def test_the_same_call_is_given_as_javascript_and_as_a_curl_line(self):
        self.explore(f"shop/article/{self.article.pk}/update")
        self.wait_for_record()
        self.replace(title='It\'s "new" é', tags="a b,c")
        reply = self.press()[1]
        self.replace(title='It\'s "newer" é', tags="a b,d")
        script, curl = self.sample("JavaScript"), self.sample("curl")
        self.assertNotIn("--json", curl)
        sent = '{title: "It\'s \\"newer\\" é", tags: ["a b","d"]}'
        path_ = f"shop/article/{self.article.pk}/update"
        self.assertEqual(script, f'await ajax("{path_}", {sent});')
        script = f"""
            const done = arguments[0];
            const {{default: ajax}} = await import("/ajax/client.js");
            done({script.removeprefix("await").removesuffix(";")});
        """
        data = self.browser.execute_async_script(script)
        self.assertEqual(data["title"], 'It\'s "newer" é')
        session = {"SESSION": self.client.cookies["sessionid"].value}
        output = Project(self, {}).run_program("bash", "-c", f"{curl} -s", **session)
        self.assertEqual(json.loads(output), {**reply, "data": data})

    def test_code_is_copied_over_http_too(self):
        self.explore("shop/hello")
        buttons = self.find_all(".head button")
        names = [button.get_attribute("aria-label") for button in buttons]
        self.assertEqual(names, ["Copy JavaScript", "Copy curl"])
        buttons[0].click()
        self.assertEqual(self.wait(".head small:not(:empty)").text, "Copied.")
        script = 'Object.defineProperty(navigator, "clipboard", {value: undefined})'
        self.browser.execute_script(script)
        buttons[1].click()
        self.wait_until(lambda: self.find_all(".head small")[1].text == "Copied.")
        selected = self.browser.execute_script("return String(getSelection())")
        self.assertEqual(selected.strip(), self.sample("curl"))
        self.go("shop/ask")
        self.box("body").send_keys(webdriver.Keys.CONTROL, "v")
        self.assertEqual(self.value("body").split(), selected.split())

    def test_the_curl_line_works_as_it_stands(self):
        def only_ann(self, request, application, method):
            return request.user.username == "ann"

        self.serve(Country, authenticate=only_ann)
        self.serve(Specimen, authenticate=only_ann)
        session = {}

        def run_line(where):
            done = subprocess.run(
                ["bash", "-c", f"cd {where}; {self.sample('curl')} -s"],
                env=os.environ | session,
                capture_output=True,
                timeout=30,
            )
            return json.loads(done.stdout)

        self.explore("shop/country/{pk}/get")
        session["SESSION"] = self.client.cookies["sessionid"].value
        self.fill(pk="(it's)")
        message = run_line("/")["data"]["message"]
        self.assertEqual(message, 'Country with id of "(it\'s)" not found.')
        self.explore("shop/specimen/create")
        session["SESSION"] = self.client.cookies["sessionid"].value
        with tempfile.TemporaryDirectory() as folder:
            path_ = Path(folder, "it's a.txt")
            path_.write_text("words")
            self.fill(words="it's", file=str(path_), json='{"a": [1]}', tags="a b, c")
            data = run_line(folder)["data"]
        names = [tag["name"] for tag in data["tags"]]
        found = (data["words"], data["json"], names, data["file"][:17])
        self.assertEqual(found, ("it's", {"a": [1]}, ["a b", "c"], "/media/specimens/"))

    # For everybody

    def test_all_can_be_done_by_the_keyboard(self):
        self.explore()
        keys = webdriver.Keys

        def press(*pressed):
            for key in pressed:
                self.browser.switch_to.active_element.send_keys(key)

        def walk_to(element):
            for _number in range(60):
                press(keys.TAB)
                if self.browser.switch_to.active_element == element:
                    return
            self.fail(f"{element.get_attribute('id')} cannot be reached.")

        walk_to(self.find("#filter"))
        press("article/{pk}/up", keys.ENTER)
        self.assertEqual(self.wait("h2:focus").text, "shop/article/{pk}/update")
        walk_to(self.box("pk"))
        press(str(self.article.pk), keys.TAB)
        self.wait_for_record()
        walk_to(self.box("title"))
        press(keys.END, " typed", keys.ENTER)
        self.assertEqual(self.reply()["data"]["title"], "First typed")
        walk_to(self.find(".reply pre"))  # Or it could not be scrolled.
        self.browser.execute_script("document.activeElement.blur()")
        self.explore("shop/article/list")
        press(keys.TAB)
        self.assertTrue(self.find("#skip:focus").is_displayed())
        press(keys.ENTER)
        self.assertEqual(self.wait("h2:focus").text, "shop/article/list")

    def test_odd_names_and_texts_are_shown_as_they_are(self):
        source = "".join(
            f'def call_{number}(request):\n    "Number {number}."\n'
            for number in range(300)
        )
        source += f"def constructor(request):\n    {MARKUP!r}\n"
        self.serve(Odd, can_list=yes)
        Odd.objects.create(char=MARKUP)
        with self.apps(many=source):
            self.explore("many/constructor")
            self.assertEqual(
                self.find("article p").text.split(), MARKUP.replace("`", "").split()
            )
            links = self.find_all("#calls a")
            self.assertGreater(len(links), 300)
            self.explore("shop/odd/create")
            boxes = self.find_all(".field")
            self.assertEqual(len(boxes), 201)
            choice = self.box("char").find_elements("css selector", "option")[1]
            self.assertEqual(choice.text.split(), MARKUP.split())
            self.go("shop/odd/list")
            self.press()
            self.assertEqual(
                self.find(".reply td:nth-child(3)").text.split(), MARKUP.split()
            )
            self.assertFalse(self.find_all("b, i"))
            # All is shown within a second, and loaded before.
            self.explore()
            script = """
                const start = performance.now();
                const filter = document.querySelector("#filter");
                filter.dispatchEvent(new InputEvent("input"));
                document.body.getBoundingClientRect();
                return performance.now() - start;
            """
            self.assertLess(self.browser.execute_script(script), 1000)
            self.assertGreater(len(self.find_all("#table tbody tr")), 300)

    def test_axe_finds_nothing_in_light_or_dark_on_any_width(self):
        axe = (install_packages() / "axe-core/axe.min.js").read_text("utf-8")
        options = "{resultTypes: ['violations']}"
        script = f"axe.run({options}).then(found => arguments[0](found.violations))"
        widths = (320, 390, 768, 1440)

        def check(*what):
            self.browser.execute_script(axe)
            for scheme, width in itertools.product(("light", "dark"), widths):
                self.emulate(prefers_color_scheme=scheme)
                self.resize(width)
                with self.subTest(*what, scheme=scheme, width=width):
                    found = self.browser.execute_async_script(script)
                    self.assertEqual(found, [])
                    wide = "return document.documentElement.scrollWidth"
                    self.assertLessEqual(self.browser.execute_script(wide), width)

        def explore(where):
            self.explore(where)
            # Of links and rows that are alike, some are enough.
            self.find("#filter").send_keys("article")

        for where in ("", f"{self.path}/delete"):
            explore(where)
            check(where)
        explore(f"{self.path}/get")
        self.press()
        check("a reply")
        explore("shop/article/list")
        self.press()
        check("a list")
        Country.objects.create(code="de", name="Germany")
        explore("shop/specimen/create")
        self.fill(char="too long", kind="A")
        self.send_special("date", "null")
        self.press()
        self.box("country").send_keys("d")
        self.wait("[id$=':country'] ~ .options:not(:empty)")
        check("errors")
        self.assert_refused(400)

    def test_fingers_have_large_targets(self):
        self.resize(390)
        touch = "Emulation.setTouchEmulationEnabled"
        self.browser.execute_cdp_cmd(touch, {"enabled": True})
        self.addCleanup(self.browser.execute_cdp_cmd, touch, {"enabled": False})
        self.emulate(pointer="coarse")
        script = """
            const targets = "main :is(a, button, input, select)";
            const elements = Array.from(document.querySelectorAll(targets));
            return elements.filter(element => element.checkVisibility())
              .map(element => element.getBoundingClientRect())
              .filter(({width, height}) => width < 43.5 || height < 43.5).length;
        """
        for where in ("", "shop/specimen/create", "shop/article/list"):
            self.explore(where)
            if where.endswith("list"):
                self.press()
            self.assertEqual(self.browser.execute_script(script), 0, where)

    def test_forced_colours_print_and_right_to_left(self):
        self.explore("shop/article/list")
        self.emulate(forced_colors="active")
        style = self.find("nav [aria-current]").value_of_css_property("outline-style")
        self.assertEqual(style, "solid")
        command = self.browser.execute_cdp_cmd
        command("Emulation.setEmulatedMedia", {"media": "print"})
        self.assertFalse(self.find("#side").is_displayed())
        command("Emulation.setEmulatedMedia", {"media": ""})
        with self.apps(
            rtl='def greet(request):\n    "\u0645\u0631\u062d\u0628\u0627."\n'
        ):
            self.explore("rtl/greet")
            text = self.find("article header p")
            self.assertEqual(text.get_attribute("dir"), "auto")
            self.assertEqual(text.value_of_css_property("direction"), "rtl")
            self.browser.execute_script("document.documentElement.dir = 'rtl'")
            wide = "return document.documentElement.scrollWidth"
            self.assertLessEqual(self.browser.execute_script(wide), 1280)

    def test_its_files_are_its_own_and_small(self):
        self.client.force_login(self.user)
        with self.settings(DEBUG=True):
            page = self.client.get("/ajax/").content.decode()
            script = self.client.get("/ajax/explorer.js").content
            icon = self.client.get("/ajax/explorer.svg")
        self.assertEqual(icon["Content-Type"], "image/svg+xml; charset=utf-8")
        self.assertNotRegex(
            page, r"(?s)<style|<script[^>]*>[^<]|style=|\son\w+=|https?:"
        )
        self.assertNotRegex(script.decode(), r"innerHTML|insertAdjacent|\beval\b")
        self.assertLessEqual(max(map(len, ajax._EXPLORER.splitlines())), 100)
        self.assertLessEqual(len(gzip.compress(script, 9)), 8 * 1024)


# --- Checks ---------------------------------------------------------------------------


class Checks(AjaxTestCase):
    def messages(self, id, *words):
        """Return what the checks say with this id and any of the words, and hints."""
        found = [each for each in checks.run_checks() if each.id == id]
        self.assertTrue(all(each.hint for each in found))
        found = [each for each in found if any(word in each.msg for word in words)]
        return [f"{each.msg} {each.hint}" for each in found]

    def said(self, id, served, **attributes):
        """Return what they say about a model while it is served like this."""
        self.serve(served, **attributes)
        found = self.messages(id, f"{served.__name__}Endpoint", served._meta.label)
        self.doCleanups()
        return found

    def test_names_that_are_not_there_are_e002_with_what_may_have_been_meant(self):
        for attribute, names, meant in [
            ("expand", ["autor"], "author"), ("expand", ["category", 3], None),
            ("expand", ["category__title"], None), ("ordering", ["-titel"], "title"),
            ("sortable_by", [None], None), ("list_filter", ["__all__"], None),
            ("sortable_by", ["category__titel"], None),
            ("search_fields", ["^titel"], "title"), ("search_fields", ["pk", ""], None),
            ("list_filter", ["title", "created__titel"], None),
            ("list_filter", ["title__iregex"], None),
            ("list_filter", ["title__regex"], None),
            ("list_filter", ["category__pk__range"], None),
            ("list_filter", ["json__has_key"], None),
            ("operations", ["get", "publsh"], "publish"),
            ("operations", ["get", "titl"], None), ("list_filter", [["title"]], None),
        ]:  # fmt: skip
            with self.subTest(attribute, names=names):
                served = Specimen if "json" in str(names[0]) else Article
                (message,) = self.said("ajax.E002", served, **{attribute: names})
                wrong = repr(names[-1])
                for word in (f"{served.__name__}Endpoint", attribute, wrong):
                    self.assertIn(word, message)
                if meant:
                    self.assertRegex(message, rf"(?i)did you mean\W.*{meant}\b")
                if attribute == "operations":
                    self.assertNotIn("title?", message)

    def test_what_cannot_be_searched_in_is_e002(self):
        length = {"length": Length("title")}
        for name, hint in [
            ("author", "such as author__name"),
            ("=category", "Name a column"),
            ("author_id", "Did you mean author?"),
            ("readers", "such as readers__name"),
            ("length", "Correct the name"),
        ]:
            with self.subTest(name):
                attributes = {"search_fields": ["title", name], "annotations": length}
                (message,) = self.said("ajax.E002", Article, **attributes)
                self.assertIn(f"names {name!r}", message)
                self.assertIn(hint, message)

    def test_names_that_are_there_are_not_e002(self):
        for served, attributes in [
            (Article, {
                "fields": ["pk", "title", "category", "readers", "tags", "headline"],
                "headline": yes, "exclude": ["body"], "immutable_fields": ["author"],
                "readonly_fields": ["category", "headline"],
                "expand": ["author", "category__parent"],
                "ordering": ["-created", "category__title", models.F("pk").desc()],
                "sortable_by": ["pk", "title", "category__title"],
                "search_fields": ["^title", "=author__username", "title__icontains"],
                "list_filter": ["category", "category__title__in", "created__year"],
                "operations": ["get", "list", "tags", "publish", "archive"],
                "archive": lambda self, request: None,
            }),
            (User, {"fields": ["id", "username", "get_full_name"], "expand": 2}),
            (Article, {"fields": "__all__", "expand": True, "ordering": ["?"]}),
            (Note, {"expand": ["article__note_set", "article__readers"]}),
            (Specimen, {
                "list_filter": ["json__key__gt", "json__isnull", "tags__name"],
            }),
        ]:  # fmt: skip
            with self.subTest(attributes):
                self.assertEqual(self.said("ajax.E002", served, **attributes), [])

    def test_a_function_or_form_in_the_place_of_a_create_is_e003(self):
        # A class in zoo's endpoints.py serves its model at zoo/group as well.
        for operations, is_told in [
            (None, True), (["create"], True), (["get"], False), ([], False)
        ]:  # fmt: skip
            with self.subTest(operations), self.apps(zoo="def group(request): pass"):
                self.post("zoo/group")
                zoo = {"__module__": "zoo.endpoints", "operations": operations}
                found = self.said("ajax.E003", Group, **zoo)
                self.assertEqual(
                    ["zoo/group" in each for each in found], [True] * is_told
                )
        self.serve(form_named("Category"))
        (message,) = self.messages("ajax.E003", "shop.Category")
        self.assertIn("shop/category", message)

    def test_a_second_copy_is_e004_and_a_module_that_takes_names_is_none(self):
        spec = importlib.util.spec_from_file_location("copied", ajax.__file__)
        with mock.patch.dict(sys.modules):
            sys.modules["copied"] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules["copied"])
            (found,) = self.messages("ajax.E004", "ajax")
        self.assertIn("copied", found)
        for source in ("from ajax import *", "class ModelEndpoint: pass"):
            exec(source, vars(other := types.ModuleType("other")))
            with mock.patch.dict(sys.modules, other=other):
                self.assertEqual(self.messages("ajax.E004", "ajax"), [])

    def test_modules_that_are_none_or_import_on_demand_do_not_break_the_checks(self):
        class Lazy(types.ModuleType):
            def __getattr__(self, name):
                raise ImportError(name)

        for other in (None, Lazy("other")):
            with mock.patch.dict(sys.modules, other=other):
                self.assertEqual(self.messages("ajax.E004", "ajax"), [])

    def test_a_model_that_only_expansion_shows_is_w001(self):
        (message,) = self.said("ajax.W001", Permission)
        self.assertIn("PermissionEndpoint", message)
        self.assertIn("contenttypes.ContentType", message)
        for attributes in (
            {"expand": 0, "readonly_fields": ["content_type"]},
            {"exclude": ["content_type"]},
        ):
            with self.subTest(attributes):
                self.assertEqual(self.said("ajax.W001", Permission, **attributes), [])
        self.serve(ContentType, fields="__all__")
        self.assertEqual(self.said("ajax.W001", Permission), [])
        self.register_encoder(ContentType, ajax.ExcludeEncoder(exclude=[]))
        self.assertEqual(self.said("ajax.W001", Permission), [])

    def test_so_is_one_behind_a_model_that_can_get_guards(self):
        self.serve(WEB[1], can_get=yes)
        options = {"fields": ["to_b"], "expand": ["to_b__to_c"]}
        (message,) = self.said("ajax.W001", WEB[0], **options)
        self.assertIn("Webc", message)

    def test_a_list_that_counts_what_can_get_refuses_is_w003(self):
        both = {"can_get": yes, "can_list": yes}
        narrowed = {"get_queryset": lambda self, request: User.objects.all()}
        for attributes, is_told in [
            (both, True), (both | {"operations": ["get", "list"]}, True),
            (both | {"operations": ["get"]}, False), (both | narrowed, False),
            (both | {"operations": []}, False),
            ({"can_get": yes}, False), ({"can_list": yes}, False), (narrowed, False),
        ]:  # fmt: skip
            with self.subTest(attributes):
                found = self.said("ajax.W003", User, **attributes)
                self.assertEqual(len(found), is_told)

    def test_a_sort_through_a_relation_that_hides_records_is_w005(self):
        narrow = {"get_queryset": lambda self, request: Category.objects.all()}
        is_open = {"authenticate": yes}
        for related, own, sorts, is_told in [
            (is_open, {}, ["category__title"], True),
            ({}, is_open, ["category__title"], True),
            (is_open, is_open, ["category__title"], False),
            (narrow, {}, ["title", "category__parent__title"], True),
            (narrow, {}, ["title", "category"], False),
            ({}, {}, ["category__title"], False),
        ]:
            with self.subTest(related, own=own, sorts=sorts):
                self.serve(Category, **related)
                found = self.said("ajax.W005", Article, sortable_by=sorts, **own)
                self.assertEqual(bool(found), is_told)
                self.doCleanups()
        self.register_encoder(User, ajax.IncludeEncoder(include=["username"]))
        sorts = ["author__username"]
        found = self.said("ajax.W005", Article, sortable_by=sorts, **is_open)
        self.assertEqual(found, [])

    def test_an_open_endpoint_that_expands_what_wants_a_login_is_w006(self):
        (category, user) = self.said("ajax.W006", Article, authenticate=yes)
        self.assertIn("shop.Category", category)
        self.assertIn("auth.User", user)
        start = "If ArticleEndpoint.authenticate lets visitors in, they do not see the"
        for message in (category, user):
            self.assertTrue(message.startswith(start))
        self.assertEqual(self.said("ajax.W006", Article), [])
        self.serve(Category, authenticate=yes)
        self.register_encoder(User, ajax.IncludeEncoder(include=["username"]))
        self.assertEqual(self.said("ajax.W006", Article, authenticate=yes), [])

    def test_an_operation_that_asks_no_hook_any_more_is_w007(self):
        def delete(self, request):
            self.record.archive()

        def archive_instead(self, request):
            self.record.archive()
            return ajax.ModelEndpoint.get(self, request)

        def ask_and_delete(self, request):
            if self.can_delete(self.user, self.record):
                self.record.archive()

        (message,) = self.said("ajax.W007", Article, delete=delete)
        self.assertIn("so can_delete is not asked", message)
        for method in (archive_instead, ask_and_delete):
            self.assertEqual(self.said("ajax.W007", Article, delete=method), [])
        self.assertEqual(self.said("ajax.W007", Article), [])

    def test_callables_that_are_not_exposed_are_named_by_w004(self):
        tools = "giving giving_more helper short anything decorated"
        tools += " plain_object partial_view"
        sources = {"others": OTHERS, "tools": EXPOSED + NOT_EXPOSED, "listing": LISTED}
        with self.apps(**sources):
            for app, lost in [("others", "adding"), ("tools", tools), ("listing", "")]:
                found = " ".join(self.messages("ajax.W004", f"{app}.endpoints"))
                names = re.findall(r"endpoints\.(\w+)", found)
                self.assertCountEqual(names, lost.split())

    def test_w004_says_how_an_object_or_a_function_is_exposed(self):
        logic = """
            class Create:
                def __call__(self, request): return 1
            create_elsewhere = Create()
            """
        shop = """
            from logic.endpoints import Create, create_elsewhere
            class CreateCustomer:
                def __call__(self, request): return 1
            create_customer, create_order, constant = CreateCustomer(), Create(), 5
            def create_bill(customer): return 1
            """
        with self.apps(logic=logic, customers=shop):
            found = self.messages("ajax.W004", "customers.endpoints")
            names = re.findall(r"endpoints\.(\w+)", " ".join(found))
            expected = ["create_customer", "create_order", "create_bill"]
            self.assertEqual(names, expected)
            for message in found[:2]:
                self.assertIn("let its class extend ajax.BaseEndpoint", message)
            self.assertIn("name its first parameter request", found[2])
            # So does the hint of the 404.
            with self.settings(DEBUG=True):
                for name, message in zip(expected, found, strict=True):
                    hint = self.post(f"customers/{name}", status=404)["hint"]
                    self.assertIn(f"customers.endpoints.{name} is not exposed.", hint)
                    self.assertTrue(message.startswith(hint))
                hint = self.post("customers/create_elsewhere", status=404)["hint"]
                self.assertNotIn("exposed", hint)

    def said_of_base(self, served, **attributes):
        """Return the E002 about a model whose endpoint has these from its base."""
        base = type("BaseEndpoint", (ajax.ModelEndpoint,), attributes)
        self.serve(served)  # It is served as before after the test.
        ajax.endpoint.unregister(served)
        name = f"{served.__name__}Endpoint"
        names = {"__module__": __name__}
        ajax.endpoint.register(served, type(name, (base,), names))
        found = self.messages("ajax.E002", name)
        self.doCleanups()
        return found

    def test_names_of_a_shared_base_are_left_to_e002(self):
        for attribute, name, meant in [
            ("fields", "titel", "title"),
            ("exclude", "titel", "title"),
            ("exclude", "author_id", "author"),
            ("readonly_fields", "autor", "author"),
            ("readonly_fields", "author_id", "author"),
            ("immutable_fields", "autor", "author"),
        ]:
            with self.subTest(attribute, name=name):
                (message,) = self.said_of_base(Article, **{attribute: ["body", name]})
                self.assertIn(f"{attribute} names {name!r}", message)
                self.assertIn(f"Did you mean {meant}?", message)
        for attributes in ({"fields": "__all__"}, {"exclude": ["secret"]}):
            self.assertEqual(self.said_of_base(Article, **attributes), [])

    def test_no_name_makes_the_checks_fail(self):
        wrong = [3, None, "", "_", "__", "a__b", "pk__", "-", ("a",), b"a", "ä", "\0"]
        for attribute in ajax._NAME_RULES:
            base = {attribute: wrong, "can_list": yes, "authenticate": yes}
            with self.subTest(attribute):
                self.assertGreater(len(self.said_of_base(Article, **base)), 5)
        # What another endpoint names wrongly keeps no check from running.
        self.serve(Category, expand=[3])
        self.assertEqual(len(self.messages("ajax.E002", "CategoryEndpoint")), 1)
        both = {"can_get": yes, "can_list": yes}
        self.assertEqual(len(self.said("ajax.W003", Article, **both)), 1)

    def test_names_of_an_encoder_are_e002_too(self):
        for encoder, meant in [
            (ajax.IncludeEncoder(["titel"]), "title"),
            (ajax.ExcludeEncoder(["secrt"]), "secret"),
            (ajax.ExcludeEncoder(["author_id"]), "author"),
            (ajax.ExcludeEncoder([3]), "Correct the name"),
            (ajax.ExcludeEncoder(["title", "offer", "readers"]), None),
            (ajax.IncludeEncoder(["pk", "title"]), None),
            (type("Own", (ajax.ExcludeEncoder,), {"to_dict": yes})(["x"]), None),
        ]:
            with self.subTest(vars(encoder)):
                self.register_encoder(Article, encoder)
                found = self.messages("ajax.E002", "Encoder of shop.Article names")
                self.assertEqual(len(found), meant is not None)
                for message in found:
                    self.assertIn(meant, message)
                self.doCleanups()

    def test_a_copy_that_is_imported_late_is_e004(self):
        source = """
            import ajax, importlib.util, sys
            spec = importlib.util.spec_from_file_location("copied", ajax.__file__)
            sys.modules["copied"] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules["copied"])
            urlpatterns = []
            """
        with self.apps(zoo=source):
            (message,) = self.messages("ajax.E004", "copied")
        with self.apps(zoo=f"{textwrap.dedent(source)}1 / 0"):
            self.assertEqual(len(self.messages("ajax.E004", "copied")), 1)
            self.assertEqual(len(self.messages("ajax.E001", "ZeroDivisionError")), 1)
        with self.apps(zoo=""):
            folder = importlib.import_module("zoo").__path__[0]
            Path(folder, "urls.py").write_text(textwrap.dedent(source))
            with self.settings(ROOT_URLCONF="zoo.urls"):
                self.assertEqual(len(self.messages("ajax.E004", "copied")), 1)
        with self.settings(ROOT_URLCONF=types.ModuleType("urls")):
            self.assertEqual(list(ajax._check_copies()), [])

    def test_a_key_that_may_refer_to_any_record_is_w001(self):
        refers = "lets users refer to any contenttypes.ContentType"
        (message,) = self.said("ajax.W001", Permission, expand=False)
        self.assertIn(f"PermissionEndpoint {refers}. No endpoint", message)
        self.assertIn("readonly_fields", message)
        (message,) = self.said("ajax.W001", Permission)
        self.assertIn(
            f"shows all fields of contenttypes.ContentType and {refers}", message
        )
        narrow = {"get_field_queryset": lambda self, request, field: field}
        field = Permission._meta.get_field("content_type")
        limits = mock.patch.object(field, "get_limit_choices_to", lambda: {"pk": 1})
        for attributes, patch in [
            (narrow, contextlib.nullcontext()), ({}, limits)
        ]:  # fmt: skip
            with patch:
                self.assertEqual(
                    self.said("ajax.W001", Permission, expand=False, **attributes), []
                )
        # A many-to-many refers to records as well.
        (message,) = self.said("ajax.W001", Group, fields=["permissions"])
        self.assertIn("lets users refer to any auth.Permission", message)
        # Of a relative of a registered model, no record can be referred to.
        registry = ajax.endpoint
        copies = {name: {**vars(registry)[name]} for name in ("_registry", "_paths")}
        self.addCleanup(ajax._forget_plans)
        with mock.patch.multiple(registry, **copies):
            registry.unregister(Article)
            self.assertIn("shop.Article", " ".join(self.messages("ajax.W001", "Open")))
            registry.register(Headline)
            self.assertNotIn("Article", " ".join(self.messages("ajax.W001", "Open")))

    def test_what_a_model_form_answers_is_w001_too(self):
        def get_form_kwargs(self, request):
            instance = Permission(codename="read", content_type=content_type)
            return {"instance": instance}

        content_type = ContentType.objects.get_for_model(Article)
        whole = {"pk": content_type.pk, "app_label": "shop", "model": "article"}
        narrow = ajax.IncludeEncoder(include=["name"])
        wide = ajax.IncludeEncoder(include=["name", "content_type"])
        # The form's fields, the endpoint's options, the encoder, and what is shown of
        # the content type.
        for names, options, encoder, shown in [
            (["name", "content_type"], None, None, content_type.pk),
            (["name"], None, None, None),
            (["name"], {}, None, whole),
            (["name", "content_type"], {"fields": "__all__"}, None, whole),
            (["name"], {"expand": False}, None, content_type.pk),
            (["name", "content_type"], {"fields": ["name"]}, None, None),
            (["name"], None, wide, whole),
            (["name", "content_type"], None, narrow, None),
        ]:
            with self.subTest(names, options=options, encoder=encoder):
                form = forms.modelform_factory(Permission, fields=names)
                form.__module__ = __name__
                self.serve(form, get_form_kwargs=get_form_kwargs)
                if options is not None:
                    self.serve(Permission, **options)
                if encoder is not None:
                    self.register_encoder(Permission, encoder)
                sent = {"name": "Read", "content_type": content_type.pk}
                record = self.post("shop/permissionform", sent)["data"]
                self.assertEqual(record.get("content_type"), shown)
                messages = self.messages("ajax.W001", "PermissionForm ")
                shows = "PermissionForm shows all fields of contenttypes.ContentType"
                is_told = [shows in message for message in messages]
                self.assertEqual(is_told, [True] * (shown == whole))
                self.doCleanups()
                Permission.objects.get(pk=record["pk"]).delete()
        self.serve(form_named("PlainForm"))
        self.assertEqual(self.messages("ajax.W001", "PlainForm"), [])

    def test_a_model_form_of_a_relative_of_a_registered_model_is_no_w001(self):
        form = forms.modelform_factory(Article, fields=["title", "category"])
        registry = ajax.endpoint
        copies = {name: {**vars(registry)[name]} for name in ("_registry", "_paths")}
        self.addCleanup(ajax._forget_plans)
        with mock.patch.multiple(registry, **copies):
            registry.unregister(Article)
            registry.unregister(Category)
            registry.register(Headline)
            registry.register(form, FormsEndpoint)
            self.assertEqual(self.messages("ajax.W001", "ArticleForm"), [])
            registry.unregister(Headline)
            registry.register(Article)
            self.assertEqual(len(self.messages("ajax.W001", "ArticleForm ")), 1)

    def test_a_model_that_is_registered_without_a_class_is_shown_with_all_fields(self):
        ajax.endpoint.register(ContentType)
        self.addCleanup(ajax.endpoint.unregister, ContentType)
        self.serve(Permission)
        self.assertEqual(self.messages("ajax.W001", "PermissionEndpoint"), [])
        content_type = ContentType.objects.get_for_model(Article)
        self.serve(Note, fields=["kind"], kind=lambda self, record: content_type)
        note = Note.objects.create(owner=self.user)
        shown = {"pk": content_type.pk, "app_label": "shop", "model": "article"}
        self.assertEqual(self.shown(note)["kind"], shown)

    def test_e002_corrects_a_name_anywhere_on_a_path(self):
        for attribute, name, meant in [
            ("list_filter", "titel__icontains", "title__icontains"),
            ("list_filter", "category__titel", "category__title"),
            ("search_fields", "^category__parent__titel", "category__parent__title"),
            ("ordering", "-category__titel", "category__title"),
            ("sortable_by", "categroy__title", "category__title"),
        ]:
            with self.subTest(name):
                (message,) = self.said("ajax.E002", Article, **{attribute: [name]})
                self.assertIn(f"Did you mean {meant}?", message)
        for name in ("title__xyz", "category__xyz", "xyz__title"):
            with self.subTest(name):
                (message,) = self.said("ajax.E002", Article, list_filter=[name])
                self.assertIn(f"list_filter names {name!r}", message)

    def test_an_order_by_what_is_hidden_is_w005_by_default_too(self):
        narrow = {"get_queryset": lambda self, request: Category.objects.all()}
        for attributes, is_told in [
            ({"ordering": ["-category__title", "pk"]}, True),
            ({"ordering": ["category", models.F("pk")]}, False),
        ]:
            with self.subTest(attributes):
                self.serve(Category, **narrow)
                attributes["sortable_by"] = ()
                messages = self.said("ajax.W005", Article, **attributes)
                self.assertEqual(bool(messages), is_told)
        # A relation's own name sorts by the usual order of its model.
        with mock.patch.object(Category._meta, "ordering", ["title"]):
            for name, is_told in [("category", True), ("category_id", False)]:
                with self.subTest(name):
                    self.serve(Category, **narrow)
                    messages = self.said("ajax.W005", Article, sortable_by=[name])
                    self.assertEqual(bool(messages), is_told)


# --- Workers --------------------------------------------------------------------------


class Workers(ProjectTestCase):
    """Processes on one SQLite file, of default settings and with a write-ahead log."""

    WORK = """
        from shell import *
        from blog.models import Post
        name, rounds = sys.argv[1], int(sys.argv[2])
        for turn in range(rounds):
            new = {name: turn + 1}
            sent = {"name": name, "likers": [1, 2], "tags": f"{name}-{turn},all"}
            for path, data in (("post/1/update", new), ("post", sent)):
                path = f"/ajax/blog/{path}.json"
                response = client.post(path, data, "application/json")
                assert response.status_code == 200, response.content
            print(turn, flush=True)
        """

    FILES = DJANGO_FILES | {
        "blog/models.py": """
            from django.contrib.auth.models import User
            from django.db import models
            from taggit.managers import TaggableManager
            class Post(models.Model):
                name = models.CharField(max_length=9)
                a, b, c = (models.IntegerField(default=0) for _ in "abc")
                likers = models.ManyToManyField(User, blank=True)
                tags = TaggableManager(blank=True)
            """,
        "blog/endpoints.py": """
            import ajax
            from blog.models import Post
            ajax.endpoint.register(Post)
            """,
        "fill.py": """
            from shell import *
            from blog.models import Post
            User.objects.create_user("bob")
            Post.objects.create(name="shared")
            """,
        "work.py": """
            from shell import *
            name, rounds = sys.argv[1], int(sys.argv[2])
            for turn in range(rounds):
                new = {name: turn + 1}
                sent = {"name": name, "likers": [1, 2], "tags": f"{name}-{turn},all"}
                for path, data in (("post/1/update", new), ("post", sent)):
                    path = f"/ajax/blog/{path}.json"
                    response = client.post(path, data, "application/json")
                    assert response.status_code == 200, response.content
                print(turn, flush=True)
            """,
        # Write the columns of the shared record, and what each other one holds.
        "count.py": """
            from shell import *
            from blog.models import Post
            others = [
                [len(set(post.tags.names())), post.likers.count()]
                for post in Post.objects.exclude(pk=1)
            ]
            shared = Post.objects.get(pk=1)
            print(json.dumps([[shared.a, shared.b, shared.c], others]))
            """,
    }

    def assert_nothing_is_lost(self, options):
        self.project.append("settings.py", f"""
            DATABASES["default"] |= {{"NAME": "db.sqlite3", "OPTIONS": {options}}}
            INSTALLED_APPS += ["taggit"]
            """)  # fmt: skip
        self.project.run("fill.py")
        rounds = 8
        first = self.project.start("work.py", "a", str(rounds))
        second = self.project.start("work.py", "b", str(rounds))
        killed = self.project.start("work.py", "c", "1000")
        self.project.read_until(killed, "3")
        killed.kill()
        self.project.finish(first)
        self.project.finish(second)
        (a, b, c), others = json.loads(self.project.run("count.py"))
        self.assertEqual((a, b), (rounds, rounds))
        self.assertGreaterEqual(c, 3)
        self.assertGreaterEqual(len(others), 2 * rounds + 3)
        for tags_and_likers in others:
            self.assertEqual(tags_and_likers, [2, 2])

    def test_they_lose_nothing_and_one_that_is_killed_leaves_whole_records(self):
        self.assert_nothing_is_lost({})

    def test_they_lose_nothing_with_a_write_ahead_log_either(self):
        self.assert_nothing_is_lost({"init_command": "PRAGMA journal_mode=WAL"})


# --- Imports --------------------------------------------------------------------------


SOURCE = Path(ajax.__file__).read_text(encoding="utf-8")


class Imports(ProjectTestCase):
    OLD_PATHS = {
        "urls": "urlpatterns", "views": "EnvelopedResponse",
        "endpoints": "endpoint, ModelEndpoint, BaseEndpoint",
        "exceptions": "AJAXError, AlreadyRegistered, NotRegistered",
        "decorators": "login_required, json_response",
        "encoders": "encoder, DefaultEncoder, IncludeEncoder, ExcludeEncoder",
        "signals": "ajax_created, ajax_deleted, ajax_updated",
        "authentication": "BaseAuthentication",
    }  # fmt: skip

    def test_each_old_path_may_be_the_first_import_and_needs_no_settings(self):
        code = f"""
            import sys
            for path, names in {self.OLD_PATHS}.items():
                for each in [*sys.modules]:
                    if each.partition(".")[0] == "ajax":
                        del sys.modules[each]
                exec(f"from ajax.{{path}} import {{names}}", found := {{}})
                import ajax
                assert getattr(ajax, path) is sys.modules[f"ajax.{{path}}"], path
                for name in names.split(", "):
                    assert found[name] is getattr(ajax, name), name
            assert "taggit" not in sys.modules
            """
        self.project.run_code(code, DJANGO_SETTINGS_MODULE="no_such_settings")
        for name in ("models", "nothing", "templatetags"):
            with self.subTest(name), self.assertRaises(ModuleNotFoundError):
                importlib.import_module(f"ajax.{name}")

    def test_endpoints_are_found_before_any_call_too(self):
        endpoints = """
            import ajax
            from .models import Category
            @ajax.register(Category)
            class CategoryEndpoint(ajax.ModelEndpoint):
                exclude = ["bar"]
            """
        self.project.append("blog/endpoints.py", endpoints)
        self.project.append("blog/endpoints.py", "def plain(request): 1")
        self.project.append("settings.py", "DEBUG = True")
        start = "import ajax\nfrom blog.models import Category"
        call = "ajax.DefaultEncoder().to_dict(Category(foo='f', bar='secret'))"
        self.project.assert_calls(start, (call, {"pk": None, "foo": "f", "baz": "z"}))
        call = "'/blog/plain.json' in client.get('/ajax/openapi.json').json()['paths']"
        self.project.assert_calls("", (call, True))

    #: The old package's documented examples, and an attribute that a check refuses.
    EXAMPLES = """
        from ajax.exceptions import AJAXError
        def right_back_at_you(request):
            if len(request.POST):
                return request.POST
            else:
                raise AJAXError(500, 'Nothing to echo back.')

        from django.contrib.auth.models import User
        from ajax.endpoints import BaseEndpoint
        class MyEndpoint(BaseEndpoint):
            def __call__(self, request):
                try:
                    user = User.objects.get(pk=int(request.POST['user']))
                except User.DoesNotExist:
                    raise AJAXError(404, 'Invalid user.')
                return self._encode_record(user)
        my_endpoint = MyEndpoint()

        from ajax.decorators import login_required
        @login_required
        def my_ajax_endpoint(request):
            return {'Hello, %s!' % request.user.username}

        import ajax
        from blog.models import Category
        class CategoryEndpoint(ajax.endpoints.ModelEndpoint):
            search_fields = ["no_such_name"]
        ajax.endpoint.register(Category, CategoryEndpoint)

        from ajax.encoders import encoder, ExcludeEncoder
        encoder.register(Category, ExcludeEncoder(exclude=['baz']))
        """

    def test_unlisted_and_without_taggit_the_old_packages_examples_work(self):
        self.project.write(WITHOUT_TAGGIT | {"blog/endpoints.py": self.EXAMPLES})
        made, refused = {"pk": 1, "foo": "a", "bar": "b"}, "Please log in."
        self.project.assert_calls(
            "new, stranger = {'foo': 'a', 'bar': 'b'}, Client()",
            ("post('blog/right_back_at_you', {'age': 31})", [200, {"age": "31"}]),
            ("post('blog/right_back_at_you')[1]['message']", "Nothing to echo back."),
            ("post('blog/my_endpoint', {'user': 1})[1]", {"pk": 1, "username": "ann"}),
            ("post('blog/my_endpoint', {'user': 0})[1]['message']", "Invalid user."),
            ("post('blog/my_ajax_endpoint')", [200, ["Hello, ann!"]]),
            ("post('blog/my_ajax_endpoint', client=stranger)[1]['message']", refused),
            ("post('blog/category', new)", [200, made]),
            ("post('blog/category/1/update', {'bar': 'c'})[0]", 200),
            ("post('blog/category/1/get')[1]['bar']", "c"),
            ("post('blog/category/1/tags/add', {'tags': 'x'})[0]", 404),
            ("post('blog/category/1/delete')", [200, {"pk": 1}]),
            ("run_checks()", []),
        )

    def test_vendored_and_listed_it_checks_and_claims_nothing_of_its_folder(self):
        names = "models.py templates/x static/x management/commands/x.py".split()
        self.project.write({f"project/vendor/{name}": "1 / 0" for name in names})
        examples = self.EXAMPLES.replace("from ajax", "from project.vendor.ajax")
        examples = examples.replace("import ajax", "from project.vendor import ajax")
        urls = self.FILES["urls.py"].replace("ajax.urls", "project.vendor.ajax")
        self.project.write({"blog/endpoints.py": examples, "urls.py": urls})
        self.project.write({"project/vendor/ajax.py": SOURCE})
        self.project.append("settings.py", """
            INSTALLED_APPS.insert(0, "project.vendor.ajax.AjaxConfig")
            INSTALLED_APPS.insert(1, "django.contrib.staticfiles")
            STATIC_URL = "/static/"
            ENGINE = "django.template.backends.django.DjangoTemplates"
            TEMPLATES = [{"BACKEND": ENGINE, "APP_DIRS": True}]
            """)  # fmt: skip
        self.project.assert_calls(
            """
            from django.apps import apps
            from django.contrib.staticfiles import finders
            from django.template import engines
            from django.urls import reverse
            templates = [str(each) for each in engines["django"].template_dirs]
            app, new = apps.get_app_config("ajax"), {"foo": "a", "bar": "b"}
            """,
            ("post('blog/right_back_at_you')[1]['message']", "Nothing to echo back."),
            ("post('blog/category', new)[0]", 200),
            ("post('blog/category', new, client=Client())[0]", 403),
            ("reverse('ajax:endpoint', args=['a', 'b'])", "/ajax/a/b.json"),
            ("run_checks()", ["ajax.E002"]),
            ("[app.name, app.models_module]", ["project.vendor.ajax", None]),
            ("[each for each in templates if 'vendor' in each]", []),
            ("finders.find('x')", None),
            ("['x' in management.get_commands(), 'ajax' in sys.modules]", [False] * 2),
        )

    def test_runserver_comes_back_once_a_broken_endpoints_module_is_mended(self):
        # The reloader looks often, and says when it has looked: from then on it sees
        # that a file changes.
        self.project.append("settings.py", """
            INSTALLED_APPS += ["ajax"]
            from django.utils.autoreload import StatReloader
            StatReloader.SLEEP_TIME = 0.05
            def tick(self, ticks=StatReloader.tick):
                for _ in ticks(self):
                    print("looked", flush=True)
                    yield
            StatReloader.tick = tick
            """)  # fmt: skip
        self.project.write({"blog/endpoints.py": "def hello(request)\n"})
        port = find_free_port()
        process = self.project.start("-m", "django", "runserver", str(port))
        self.project.read_until(process, "ajax.E001", "looked")
        self.project.write({"blog/endpoints.py": "def hello(request): return 'hi'\n"})
        server = Server(self.project, process, port)
        answer = server.call("ajax/blog/hello.json")
        self.assertEqual(answer.status, 200)
        self.assertEqual(json.loads(answer.text)["data"], "hi")

    # What the module says of itself

    DOCUMENTED = """
        AJAXError AjaxConfig AlreadyRegistered BaseAuthentication BaseEndpoint
        DefaultEncoder EnvelopedResponse ExcludeEncoder FormEndpoint HTMLEscapeEncoder
        IncludeEncoder ModelEndpoint NotRegistered ajax_created ajax_deleted
        ajax_updated app_name encoder endpoint json_response login_required register
        urlpatterns validated
        """

    def test_all_lists_every_documented_name_and_each_is_explained(self):
        self.assertEqual(sorted(ajax.__all__), sorted(self.DOCUMENTED.split()))
        for name in ajax.__all__:
            value = getattr(ajax, name)
            for member, each in [(name, value), *inspect.getmembers(value)]:
                is_ours = getattr(each, "__module__", None) == ajax.__name__
                if is_ours and not member.startswith("_"):
                    self.assertTrue(inspect.getdoc(each), f"{name}.{member}")

    def test_hooks_decorators_and_registries_are_annotated(self):
        asking = "authenticate can_list can_create can_get can_update can_delete"
        doing = "get_queryset get_field_queryset prepare_record save_record"
        registry = "register unregister is_registered"
        for owner, names in [
            (ajax.ModelEndpoint, f"{asking} {doing} delete_record"),
            (ajax, "register login_required json_response"),
            (ajax.endpoint, registry), (ajax.encoder, f"{registry} encode"),
        ]:  # fmt: skip
            for name in names.split():
                found = inspect.signature(getattr(owner, name), eval_str=True)
                with self.subTest(name):
                    self.assertIsNot(found.return_annotation, found.empty)
                    if name in asking:
                        self.assertIs(found.return_annotation, bool)
                    if "record" in found.parameters and owner is ajax.ModelEndpoint:
                        self.assertIs(found.parameters["record"].annotation, typing.Any)


# --- Demo -----------------------------------------------------------------------------


class Demo(ProjectTestCase):
    FILES = {"temporary/.keep": ""}

    def temporary_files(self):
        return os.listdir(self.project.folder / "temporary")

    def start_demo(self, *arguments):
        """Start the demo; return its server, and the URL and curl line it prints."""
        temporary = str(self.project.folder / "temporary")
        words = ["curl ", "Quit"]
        server = self.project.serve(*arguments, "{}", until=words, TMPDIR=temporary)
        self.assertEqual(len(self.temporary_files()), 2)
        url = re.search(rf"{server.url}\S*", server.output)[0]
        curl = re.search("curl .*", server.output)[0]
        return server, url, curl

    def run_curl(self, line):
        output = self.project.run_program("bash", "-c", f"{line} -s")
        return json.loads(output)["data"]

    def assert_ends(self, server):
        """Ctrl-C ends it, though browsers open connections ahead; nothing is left."""
        server.connect().connect()
        self.assertEqual(server.interrupt(), 0)
        self.assertEqual(self.temporary_files(), [".keep"])

    def test_the_file_serves_a_site_to_try(self):
        server, url, curl = self.start_demo(ajax.__file__)
        with self.subTest("The curl line shows a record with all kinds of relations."):
            data = self.run_curl(curl)
            self.assertEqual(data["author"]["username"], "demo")
            self.assertTrue(data["tags"])
            self.assertTrue(any(value == [1] for value in data.values()))
        with self.subTest("The page is the explorer, and shows the Python."):
            answer = server.call(url.removeprefix(server.url), None, method="GET")
            self.assertEqual(answer.headers["Location"], "/ajax/")
            answer = server.call("ajax/", None, method="GET")
            self.assertEqual(answer.status, 200)
            self.assertIn("explorer.js", answer.text)
            answer = server.call("ajax/openapi.json", None, method="GET")
            description = json.loads(answer.text)["info"]["description"]
            self.assertIn("class Post(models.Model):", description)
            self.assertIn("@ajax.register(Post)", description)
        post = re.search(rf"{server.url}(\S+/post/1)/get\.json", curl)[1]
        with self.subTest("It shows what endpoints add to records."):
            sent = {"order_by": "-post_count"}
            answer = server.call("ajax/demo/category/list.json", sent)
            news, recipes = json.loads(answer.text)["data"]
            self.assertEqual((news["post_count"], len(news["posts"])), (2, 2))
            self.assertEqual((recipes["post_count"], recipes["posts"]), (0, []))
            answer = server.call("ajax/demo/count_posts.json", {"since": "2000-01-01"})
            self.assertEqual(json.loads(answer.text)["data"], {"count": 2})
            answer = server.call(f"{post}/publish.json", {})
            published = json.loads(answer.text)["data"]
            self.assertEqual(
                (published["published"], published["like_count"]), (True, 1)
            )
            answer = server.call(published["picture"][1:], None, method="GET")
            self.assertEqual(answer.headers["Content-Type"], "image/svg+xml")
        with self.subTest("Many are answered at once."), ThreadPoolExecutor(8) as pool:
            paths = [f"{post}/update.json"] * 8
            forms = [f"title={number}" for number in range(8)]
            answers = pool.map(server.call, paths, forms)
            self.assertEqual([answer.status for answer in answers], [200] * 8)
        with self.subTest("A name that somebody else lets point here gets nothing."):
            host = {"Host": "evil.example"}
            answer = server.call("", None, host, method="GET")
            self.assertEqual(answer.status, 400)
            answer = server.call(f"{post}/get.json", "", host)
            self.assertEqual(answer.status, 400)
        self.assert_ends(server)

    def test_the_module_serves_it_and_does_without_taggit(self):
        self.project.write(WITHOUT_TAGGIT)
        server, _url, curl = self.start_demo("-m", "ajax")
        self.assertNotIn("tags", self.run_curl(curl))
        self.assert_ends(server)


# --- Servers --------------------------------------------------------------------------


def multipart(name, text):
    """Return an upload's body, and the header that says so."""
    disposition = f'form-data; name="file"; filename="{name}"'
    body = f"--x\r\nContent-Disposition: {disposition}\r\n\r\n{text}\r\n--x--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=x"}


FORM = {"Content-Type": "application/x-www-form-urlencoded"}
POST_1, POST_3 = "demo/post/1", "demo/post/3"
#: What a session calls below the mount, in this order: a path (None posts no body, a
#: dict is sent as JSON), and headers; or, with a method, what is no POST.
SESSION = [
    ("demo/whoami", None), ("demo/category/list", {}),
    ("demo/later", {}), ("demo/guarded", {}), ("demo/quit", {}),
    ("demo/echo", {"text": "\xe9 \u2028 \U0001f600", "n": [1, None, {"a": 1.5}]}),
    ("demo/echo", "a=1&a=2&b=%C3%A9&c=", FORM), ("demo/echo", None),
    ("demo/parts", {}), ("demo/parts_later", {}),
    ("demo/category", {"title": "Sport"}), ("demo/category", "title=\xe9", FORM),
    ("demo/post", {"title": "One", "category": 2, "tags": ["b", "a, b"]}),
    ("demo/post/create", {"title": "Two", "category": {"pk": 2}, "liked_by": [1]}),
    ("demo/post", "title=Three&category=3&tags=b+c&liked_by=1", FORM),
    *(("demo/post/list", {"items_per_page": 2, "current_page": n}) for n in range(5)),
    ("demo/post/list", {"order_by": "-title,created", "search": "t"}),
    ("demo/post/list", {"category": [2, 3], "tags": "b"}),
    ("demo/post/list", "category=1&category=3&order_by=title", FORM),
    (f"{POST_3}/get", None), (f"{POST_3}/get", "", FORM), (f"{POST_3}/get", {}),
    (f"{POST_3}/update", {"title": "1", "liked_by": [1]}), (f"{POST_3}/update", {}),
    (f"{POST_3}/update", "title=Four&liked_by=", FORM),
    (f"{POST_3}/tags/add", {"tags": "new"}), (f"{POST_3}/tags/set", "tags=b+d", FORM),
    (f"{POST_3}/tags/remove", {"tags": ["d"]}), (f"{POST_3}/tags/similar", None),
    (f"{POST_3}/tags/clear", None), (f"{POST_3}/delete", {}), (f"{POST_3}/get", {}),
    ("demo/photo", *multipart("\xe9 1.txt", "text")), ("demo/photo/1/get", {}),
    ("demo/photo/1/update", *multipart("2.txt", "more" * 9000)),
    ("demo/photo", {"post": 1}), (f"{POST_1}/delete", {}),
    ("demo/post", {"title": "", "category": 99, "liked_by": [99]}),
    ("demo/post", {"title": "x", "categry": 1}), ("demo/post", "{"), ("demo/post", []),
    ("demo/post", b"title=\xff", FORM), ("demo/post/list", {"titel": 1}),
    ("demo/whoami", {}, {"X-CSRFToken": "y" * 32}), ("demo/photo/list", {}),
    ("demo/whoami", {}, {"Origin": "http://evil.example"}),
    ("demo/nothing", {}), ("nothing/post", {}), ("demo/post/1/nothing", {}),
    ("demo/post/99/get", {}), ("demo/post/x%00%2F%C3%A9/get", {}), ("a/b/c/d/e/f", {}),
    ("demo/post", "<a/>", {"Content-Type": "text/xml"}), ("demo/post", "x" * 9999),
    ("GET", "demo/whoami.json"), ("HEAD", "demo/whoami.json"), ("PUT", "demo/x.json"),
    ("DELETE", f"{POST_1}.json"), ("GET", ""), ("HEAD", ""), ("GET", "client.js"),
    ("HEAD", "client.js"), ("GET", "explorer.js"), ("GET", "explorer.css"),
    ("GET", "openapi.json"), ("POST", "client.js"),
]  # fmt: skip


class Servers(ProjectTestCase):
    """The demo, and what it lacks to have all kinds of replies, on real servers."""

    FILES = {
        "served.py": """
            import os, pathlib, sys, warnings
            import ajax, django
            from django.conf import settings
            from django.core import asgi, management, wsgi
            folder = pathlib.Path(__file__).parent / os.environ["SERVER"]
            ajax._write_demo(str(folder))
            for name in ("models", "endpoints"):
                with open(folder / "demo" / f"{name}.py", "a") as file:
                    file.write(pathlib.Path(f"more_{name}.py").read_text())
            warnings.filterwarnings("ignore", "StreamingHttpResponse must consume")
            limits = {"DATA_UPLOAD_MAX_MEMORY_SIZE": 9000}
            settings.configure(**ajax._demo_settings(str(folder)), **limits)
            django.setup()
            management.call_command("migrate", run_syncdb=True, verbosity=0)
            ajax._fill_demo()
            wsgi, asgi = wsgi.get_wsgi_application(), asgi.get_asgi_application()
            if __name__ == "__main__":
                management.call_command("runserver", sys.argv[1], use_reloader=False)
            """,
        "more_models.py": """
            class Photo(models.Model):
                file = models.FileField(upload_to="photos", blank=True)
                post = models.ForeignKey(Post, models.PROTECT, null=True, blank=True)
            """,
        "more_endpoints.py": """
            import asyncio
            from django.http import StreamingHttpResponse
            from demo.models import Photo
            ajax.endpoint.register(Photo)
            async def later(request):
                return [request.user.username, await Post.objects.acount()]
            @ajax.login_required
            async def guarded(request):
                await asyncio.sleep(0)
                return {"posts": Post.objects.order_by("pk")}
            def echo(request):
                return [request.data, request.content_type]
            def quit(request):
                raise ajax.AJAXError(429, "Not so fast.", wait=5)
            def parts(request):
                return StreamingHttpResponse(["a", "\u00e9"], content_type="text/csv")
            async def parts_later(request):
                return parts(request)
            inside, most = 0, 0
            async def rest(request):
                global inside, most
                inside += 1
                most = max(most, inside)
                for _turn in range(50):
                    await asyncio.sleep(0.2)
                    if most == request.data:
                        break
                inside -= 1
                return most
            """,
    }
    COMMANDS = {
        "runserver": "served.py {}",
        "gunicorn": "-m gunicorn -k gthread --threads 8 -b 127.0.0.1:{} served:wsgi",
        "uvicorn": "-m uvicorn --lifespan off --port {} served:asgi",
    }
    BY_CHANCE = r"\d{4}-\d\d-\d\dT[\d:.]+Z|\b\w{64}\b"  # Times and CSRF tokens.
    COMPARED = ("Content-Type", "Cache-Control", "Vary", "Allow", "X-Frame-Options")

    def start_server(self, name):
        """Start one of the servers, on a new demo."""
        if name != "runserver" and importlib.util.find_spec(name) is None:
            skip_or_fail(f"Tests on {name} want it to be installed.")
        (self.project.folder / name).mkdir()
        return self.project.serve(*self.COMMANDS[name].split(), SERVER=name)

    def make_call(self, server, connection, first, second, headers=()):
        """Make one call of SESSION; return of its answer what is compared."""
        if first.isupper():
            method, path_, body = first, second, None
        else:
            method, path_, body = "POST", f"{first}.json", second
            headers = {"Content-Type": "application/json"} | dict(headers)
        path_ = quote(f"ajax/{path_}", "/%")
        answer = server.call(path_, body, headers, method, connection)
        compared = [answer.headers[name] for name in self.COMPARED]
        return answer.status, compared, re.sub(self.BY_CHANCE, "?", answer.text)

    def test_a_session_gets_the_same_replies_from_each(self):
        expected = None
        for name in self.COMMANDS:
            with self.subTest(name):
                server = self.start_server(name)
                connection = server.connect()
                replies = []
                for call in SESSION:
                    replies.append(self.make_call(server, connection, *call))
                expected = expected or replies
                for call, one, other in zip(SESSION, expected, replies, strict=True):
                    self.assertEqual(other, one, call)
        statuses = {status for status, _headers, _text in expected}
        self.assertEqual(statuses, {200, 400, 403, 404, 405, 409, 413, 415, 429})
        # The demo's visitor is logged in, and may list and write.
        first_statuses = {}
        for (path_, *_rest), (status, *_rest) in zip(SESSION, expected, strict=True):
            first_statuses.setdefault(path_, status)
        for name in ("whoami", "category/list", "post/list", "post"):
            self.assertEqual(first_statuses[f"demo/{name}"], 200, name)
        self.assertEqual(first_statuses[f"{POST_3}/tags/similar"], 200)

    def test_functions_that_wait_wait_at_once(self):
        server = self.start_server("uvicorn")
        with ThreadPoolExecutor(50) as pool:
            paths = ["ajax/demo/rest.json"] * 50
            headers = [{"Content-Type": "application/json"}] * 50
            answers = [*pool.map(server.call, paths, ["50"] * 50, headers)]
        # Each says how many were inside with it at most.
        most = {json.loads(answer.text)["data"] for answer in answers}
        self.assertEqual(most, {50})


# --- Readme ---------------------------------------------------------------------------

import ast
import shlex

README = Path(__file__).with_name("README.md")
#: The first line of a block names its file, and where in it the block belongs.
BLOCK_START = re.compile(r"(?:#|//|<!--) (\S+\.\w+)(?:, (at its top|in \w+))?")


def readme_blocks(languages):
    """Return the README's blocks of code in any of them: "js|html"."""
    pattern = rf"^```(?:{languages})\n(.*?)^```$"
    return re.findall(pattern, README.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def readme_block(languages, part):
    """Return the one block of the README that has this part."""
    [block] = [block for block in readme_blocks(languages) if part in block]
    return block


def readme_json(part):
    """Return what the one piece of JSON with this part, in a sentence of the README,
    says."""
    codes = re.findall(r"`({[^`]+})`", README.read_text("utf-8"))
    [code] = [code for code in codes if part in code]
    return json.loads(code)


def insert_block(text, block, place):
    """Return the text of a file with a block at its place: by default, at the end."""
    if place == "at its top":
        return f"{block}\n{text}"
    if place is None:
        return f"{text}\n{block}"
    name = place.removeprefix("in ")
    [parent] = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and node.name == name
    ]
    lines = text.splitlines()
    lines[parent.end_lineno : parent.end_lineno] = ["", *block.splitlines()]
    return "\n".join(lines) + "\n"


def write_readme(project, languages):
    """Write the README's blocks into the files that their first lines name."""
    for block in readme_blocks(languages):
        start = BLOCK_START.match(block)
        if start is None:
            continue
        name, place = start.groups()
        file = project.folder / name
        text = ""
        if file.exists() and "instead of" not in block.partition("\n")[0]:
            text = file.read_text("utf-8")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(insert_block(text, block, place), "utf-8")


def readme_commands(start):
    """Return the commands of the README's blocks for a shell that begin so."""
    lines = "".join(readme_blocks("sh")).splitlines()
    return [shlex.split(line) for line in lines if line.startswith(start)]


def make_readme_site(test):
    """Return the project that the README's commands and blocks make."""
    project = Project(test, {})
    variables = {
        "DJANGO_SETTINGS_MODULE": "",
        "DJANGO_SUPERUSER_PASSWORD": "secret",
    }
    [start_project] = readme_commands("django-admin")
    project.run("-m", "django", *start_project[1:], **variables)
    variables["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
    commands = readme_commands("python manage.py")
    project.run(*commands.pop(0)[1:], **variables)
    write_readme(project, "python|js|html|ts")
    for _python, *arguments in commands:
        if "createsuperuser" in arguments:
            arguments += ["--noinput", "--username=ann", "--email=ann@example.com"]
        if "runserver" not in arguments:
            project.run(*arguments, **variables)
    return project


@functools.cache
def readme_site():
    """Return the folder of the README's site, with a database: it holds ann, who is
    logged in, and her post, and 24 posts of bob's."""
    test = unittest.TestCase()
    atexit.register(test.doCleanups)
    project = make_readme_site(test)
    output = project.run_code(
        """
        import django
        django.setup()
        from django.contrib.auth.models import User
        from django.test import Client
        from blog.models import Category, Post
        ann, news = User.objects.get(username="ann"), Category.objects.get()
        bob = User.objects.create_user("bob")
        for number, author in enumerate([ann] + [bob] * 24, 1):
            title = f"<i>{number}</i>"
            Post.objects.create(
                category=news, author=author, title=title, published=True
            )
        client = Client()
        client.force_login(ann)
        print(client.cookies["sessionid"].value)
        """,
        DJANGO_SETTINGS_MODULE="mysite.settings",
    )
    return project.folder, output.split()[-1]


class ReadmeTestCase(ProjectTestCase):
    """Has a copy of the README's site for each test."""

    FILES = {}
    SETTINGS = {"DJANGO_SETTINGS_MODULE": "mysite.settings"}

    def setUp(self):
        super().setUp()
        folder, self.session = readme_site()
        shutil.copytree(folder, self.project.folder, dirs_exist_ok=True)


class Readme(ReadmeTestCase):
    """The README's blocks that name their file are a site, which runs and answers as
    the README says."""

    #: What a script calls: `reply` as ann, who owns post 1.
    CALLS = """
        import datetime, json
        import django
        django.setup()
        from django.core import checks
        from django.test import Client
        from django.contrib.auth.models import User
        from blog.models import *
        ann, bob = User.objects.get(username="ann"), User.objects.get(username="bob")
        clients = [Client(SERVER_NAME="localhost") for _number in range(3)]
        client, other, visitor = clients
        client.force_login(ann)
        other.force_login(bob)
        def reply(path, data=None, client=client):
            path = f"/ajax/{path}.json"
            return client.post(path, data or {}, "application/json").json()
        """

    def run_calls(self, code, **variables):
        """Run a script after CALLS, which prints JSON; return what it says."""
        script = textwrap.dedent(self.CALLS) + textwrap.dedent(code)
        output = self.project.run("-c", script, **(self.SETTINGS | variables))
        return json.loads(output.splitlines()[-1])

    def read(self, text):
        """Return what JSON holds, without its times."""
        return json.loads(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "?", text))

    def test_each_block_of_python_is_complete(self):
        for block in readme_blocks("python"):
            if block.partition("\n")[0].endswith("Endpoint"):
                block = f"class Endpoint:\n{block}"
            compile(block, block, "exec")

    def test_the_first_screen_is_all_that_its_call_needs(self):
        first_block = readme_blocks("python")[0]
        project = Project(self, DJANGO_FILES)
        project.append("settings.py", "INSTALLED_APPS += ['taggit', 'ajax']")
        models = readme_block("python", "class Category(models")
        project.write({"blog/models.py": models, "blog/endpoints.py": first_block})
        [sent] = re.findall(r'"blog/post/create", ({.*?})\)', readme_blocks("js")[0])
        sent = re.sub(r"(\w+):", r'"\1":', sent)
        expected = self.read(readme_blocks("json")[0])
        output = project.run_code(
            f"""
            from shell import *
            from blog.models import Category
            Category.objects.create(title="News")
            path = "/ajax/blog/post/create.json"
            print(client.post(path, {sent!r}, "application/json").content.decode())
            """
        )
        self.assertEqual(self.read(output.splitlines()[-1]), expected)

    def test_its_calls_are_answered_as_it_says(self):
        shown = self.read(readme_block("json", "comment_count"))
        refused = readme_json('"contact"')
        errors = readme_json('"days"')
        page = readme_json('"total_pages"')
        replies = self.run_calls(
            """
            post = Post.objects.get(pk=1)
            post.title = "Hello"
            post.save()
            comments = Comment.objects
            comments.create(post=post, author=ann, text="First!", approved=True)
            sent = {"post": 1, "title": "Bye", "category": 1}
            comment = {"post": 1, "text": "Second!", "txet": "Third!"}
            print(json.dumps([
                reply("blog/post/1/get")["data"],
                reply("blog/publish_all", client=other),
                reply("blog/count_posts", {"since": "today", "days": 0})["errors"],
                reply("blog/count_posts", {"since": str(datetime.date.today())}),
                reply("blog/post/list", {
                    "search": "hello", "order_by": "-comment_count",
                    "items_per_page": 1,
                }),
                reply("blog/comment/create", comment)["errors"],
                reply("blog/post/9/delete", client=other)["data"],
                reply("blog/post/99/get")["data"]["message"],
                reply("blog/count_drafts")["data"],
                reply("blog/postform", sent)["success"],
                reply("blog/postform", {"post": 2})["errors"]["__all__"],
                reply("blog/hello", client=visitor)["data"],
                reply("blog/hello", {"name": "Ann"})["data"],
            ]))
            """
        )
        replies[4]["data"] = ["..." for _record in replies[4]["data"]]
        no_choice = "Select a valid choice. That choice is not one of the available"
        unknown = readme_json('"txet"')
        for reply, expected in zip(
            replies,
            [
                shown, refused, errors, {"success": True, "data": {"count": 25}},
                page, unknown, {"pk": 9},
                'Post with id of "99" not found.', {"drafts": 0}, True,
                [f"{no_choice} choices."], {"hello": "world"},
                {"hello": "Ann"},
            ],
            strict=True,
        ):  # fmt: skip
            with self.subTest(expected):
                self.assertEqual(self.read(json.dumps(reply)), expected)

    def test_a_key_that_is_not_written_is_named(self):
        replies = self.run_calls(
            """
            sent = {"post": 1, "author": bob.pk, "text": "First!"}
            created = reply("blog/comment/create", sent)
            post = reply("blog/post/1/get")["data"]
            sent_back = reply("blog/post/1/update", post)
            changed = reply("blog/post/1/update", {"author": bob.pk})
            records = [Comment.objects.get(), Post.objects.get(pk=1)]
            authors = [record.author.username for record in records]
            print(json.dumps([created, sent_back, changed, *authors]))
            """
        )
        created, sent_back, changed, *authors = replies
        self.assertEqual(created["ignored"], ["author"])
        self.assertNotIn("ignored", sent_back)
        self.assertEqual(changed["ignored"], ["author"])
        self.assertEqual(authors, ["ann", "ann"])
        self.assertIn('"ignored": ["author"]', README.read_text("utf-8"))

    def test_everybody_may_do_what_it_says(self):
        statuses = self.run_calls(
            """
            post = Post.objects.get(pk=1)
            draft = Post.objects.create(category=post.category, author=ann, title="a")
            Comment.objects.create(post=post, author=ann, text="First!")
            User.objects.filter(pk=bob.pk).update(is_staff=True)
            Photo.objects.create(post=post, file="a.jpg")
            results = []
            for path in (
                "post/1/get", "post/1/update", f"post/{draft.pk}/get",
                "comment/1/get", "comment/1/approve", "comment/1/get",
                "comment/1/update", "comment/create", "comment/approve",
                "category/create", "category/list", "photo/1/delete", "photo/1/get",
                "photo/1/restore", "photo/1/get", "contactform", "count_drafts",
            ):
                each = []
                for client in (visitor, other, client):
                    response = client.post(f"/ajax/blog/{path}.json")
                    each.append(response.status_code)
                results.append([path.replace(str(draft.pk), "draft"), *each])
            print(json.dumps(results))
            """
        )
        # Visitors, bob who is staff, and ann who wrote all of it.
        self.assertEqual(
            statuses,
            [
                ["post/1/get", 403, 200, 200],
                ["post/1/update", 403, 403, 200],
                ["post/draft/get", 403, 404, 200],
                ["comment/1/get", 404, 200, 200],
                ["comment/1/approve", 403, 200, 200],
                ["comment/1/get", 200, 200, 200],
                ["comment/1/update", 404, 404, 404],
                ["comment/create", 403, 400, 400],
                ["comment/approve", 400, 400, 400],
                ["category/create", 404, 404, 404],
                ["category/list", 403, 200, 200],
                ["photo/1/delete", 403, 404, 200],
                ["photo/1/get", 403, 404, 404],
                ["photo/1/restore", 403, 404, 200],
                ["photo/1/get", 403, 404, 200],
                ["contactform", 400, 400, 400],
                ["count_drafts", 403, 200, 200],
            ],
        )

    def test_photos_belong_to_the_author_of_their_post(self):
        results = self.run_calls(
            """
            from django.core.files.uploadedfile import SimpleUploadedFile
            Photo.objects.create(post_id=1, file="a.jpg")
            results = []
            for client, path, sent in (
                (client, "create", {"post": 1, "name": "b.jpg"}),
                (client, "create", {"post": 1, "name": "b.html"}),
                (client, "create", {"name": "b.jpg"}),
                (client, "create", {"post": 2, "name": "b.jpg"}),
                (other, "create", {"post": 1, "name": "b.jpg"}),
                (client, "1/update", {"post": 2}),
                (client, "1/update", {"post": 1}),
            ):
                if "name" in sent:
                    sent["file"] = SimpleUploadedFile(sent.pop("name"), b"<script>")
                response = client.post(f"/ajax/blog/photo/{path}.json", sent)
                errors = response.json().get("errors", {})
                results.append([response.status_code, *errors])
            print(json.dumps(results))
            """
        )
        expected = [[200], [400, "file"], [403], [403], [403], [403], [200]]
        self.assertEqual(results, expected)

    def test_its_checks_and_tests_pass(self):
        output = self.project.run("manage.py", "check", **self.SETTINGS)
        self.assertIn("no issues", output)
        output = self.project.run("manage.py", "test", "blog", **self.SETTINGS)
        self.assertRegex(output, r"Ran 2 tests in .*s\n\nOK")

    def test_an_encoder_shows_what_it_says(self):
        encoders = readme_block("python", "CategoryEncoder").replace(
            "from .models", "from blog.models"
        )
        self.project.append("blog/endpoints.py", encoders)
        post = self.run_calls('print(json.dumps(reply("blog/post/1/get")))')["data"]
        self.assertEqual(post["category"], {"pk": 1, "title": "NEWS", "length": 4})
        self.assertIn(json.dumps(post["category"]), README.read_text("utf-8"))

    @tag("browser")
    def test_typescript_knows_its_paths(self):
        programs = install_packages() / ".bin"
        described = self.run_calls(
            'print(client.get("/ajax/openapi.json").content.decode())'
        )
        self.project.write({"openapi.json": json.dumps(described)})
        wrong = """
            import ajax, {AJAXError} from "/ajax/client.js";
            const post = await ajax("blog/post/1/get"), form = document.forms[0];
            // @ts-expect-error: an unknown path
            await ajax("blog/pots/1/get");
            // @ts-expect-error: an unknown operation
            await ajax("blog/post/1/gte");
            // @ts-expect-error: a field that is not there
            post.titel;
            // @ts-expect-error: a field of another type
            const title: number = post.title;
            // @ts-expect-error: a wrong key
            await ajax("blog/post/1/update", {titel: "a"});
            // @ts-expect-error: a value of another type
            await ajax("blog/post/1/update", {title: 1});
            // @ts-expect-error: a key that create requires
            await ajax("blog/post/create", {category: 1});
            // @ts-expect-error: a parameter that the function requires
            await ajax("blog/count_posts", {days: 2});
            // @ts-expect-error: no parameters at all
            await ajax("blog/count_posts");
            // @ts-expect-error: data beside an unknown name
            (await ajax.reply("blog/post/list")).totals;
            await ajax("blog/post/create", form);
            const count: number = (await ajax("blog/comment/list")).length;
            const tags = await ajax("blog/post/1/tags/add", {tags: ["a"]});
            const tag: string = tags[0].name;
            const texts: string = ajax.showErrors(form, new AJAXError());
            console.log(title, count, tag, texts, ajax.fill(form, post));
            """
        self.project.write({"wrong.ts": wrong})
        openapi_typescript = programs / "openapi-typescript"
        [*_npx, address, option, name] = readme_commands("npx")[0]
        self.assertTrue(address.endswith("/ajax/openapi.json"))
        self.project.run_program(openapi_typescript, "openapi.json", option, name)
        options = "--noEmit --strict --target es2022 --module es2022".split()
        files = ["page.ts", "wrong.ts", "ajax-client.d.ts"]
        self.project.run_program(programs / "tsc", *options, *files)


@tag("browser")
class Recipes(ReadmeTestCase):
    """The README's pages and recipes, in a browser, on its site."""

    REFUSED, assert_refused = BrowserTestCase.REFUSED, BrowserTestCase.assert_refused

    @classmethod
    def setUpClass(cls):
        start_browser(cls)
        keep = "logged = []; console.log = alert = (...words) => logged.push(words);"
        command = "Page.addScriptToEvaluateOnNewDocument"
        cls.browser.execute_cdp_cmd(command, {"source": keep})
        super().setUpClass()

    def setUp(self):
        super().setUp()
        # A page that a test writes is not kept from before.
        loaders = ["django.template.loaders.app_directories.Loader"]
        settings = f"""
            TEMPLATES[0]["APP_DIRS"] = False
            TEMPLATES[0]["OPTIONS"]["loaders"] = {loaders}
            """
        self.project.append("mysite/settings.py", settings)
        self.addCleanup(self.assert_refused)

    @functools.cached_property
    def site(self):
        """Serve the site to a browser in which ann is logged in; return its URL."""
        command = "manage.py runserver {} --noreload".split()
        server = self.project.serve(*command, until=["Quit"], **self.SETTINGS)
        cookie = {"name": "sessionid", "value": self.session, "url": server.url}
        self.browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.browser.execute_cdp_cmd("Network.setCookie", cookie)
        return server.url

    def open(self, path):
        self.browser.get(self.site + path)

    def open_block(self, part, old, new, package=None):
        """Open a page of the README's one block with this part, slightly changed."""
        block = readme_block("js|html", part)
        page = block.replace(old, new)
        if block in readme_blocks("js"):
            page = f'<script type="module">{page}</script>'
        if package:
            script = (install_packages() / package).read_text("utf-8")
            self.project.write({f"blog/static/{package}": script})
            page = f'<script src="/static/{package}"></script>{page}'
        # The site has a page of this name.
        self.project.write({"blog/templates/blog/feed.html": page})
        self.open("feed/")

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def click(self, selector):
        self.find(selector).click()

    def enter(self, name, text):
        self.find(f"[name={name}]").send_keys(text)

    def wait_for(self, expected, find, *args):
        """Wait until a function gives what is expected."""
        end = time.monotonic() + 9
        while (result := find(*args)) != expected and time.monotonic() < end:
            time.sleep(0.02)
        self.assertEqual(result, expected)

    def seen(self, script):
        return self.browser.execute_script(f"return {script}")

    def texts(self, selector):
        """Return the texts of the elements that can be seen."""
        script = """
            const elements = [...document.querySelectorAll(arguments[0])];
            const visible = elements.filter(element => element.checkVisibility());
            return visible.map(element => element.textContent);
            """
        return self.browser.execute_script(script, selector)

    def wait_for_output(self, output, *errors):
        """Wait for what a form says, and for the texts behind its inputs."""
        expected = [[output], [*errors]]
        self.wait_for(
            expected, lambda: [self.texts("output"), self.texts(".ajax-error")]
        )

    def wait_for_categories(self):
        self.wait_for("News", self.seen, "document.querySelector('option')?.text")

    def stored(self, columns="title", where="id = 1", table="post"):
        """Return what a table of the blog holds."""
        query = f"SELECT {columns} FROM blog_{table} WHERE {where} ORDER BY id"
        database = sqlite3.connect(self.project.folder / "db.sqlite3")
        with contextlib.closing(database):
            return database.execute(query).fetchall()

    def test_the_first_page_lists_posts_and_saves_new_ones(self):
        self.open("")
        self.wait_for(20, lambda: len(self.texts("li")))
        self.wait_for_categories()
        for clicks in ["button"], ["[name=published]", "button"]:
            for selector in clicks:
                self.click(selector)
            self.wait_for_output("", "This field cannot be blank.")
            self.enter("title", "New")
            self.wait_for_output("")
            self.click("button")
            self.wait_for_output("Saved.")
            self.assertEqual(self.find("[name=title]").get_property("value"), "")
        self.assertEqual(self.texts("li")[20:], ["New", "New"])
        stored = self.stored("title, published, author_id", "id > 25")
        self.assertEqual(stored, [("New", False, 1), ("New", True, 1)])
        self.assert_refused(400, 400)

    def test_a_form_of_djangos_is_sent_to_a_model(self):
        urls = """
            from django.views.generic import CreateView
            from blog.models import Post
            options = {"model": Post, "fields": ["category", "title", "tags"]}
            view = CreateView.as_view(template_name="blog/django.html", **options)
            urlpatterns.append(path("django/", view))
            """
        page = """{% load static %}
            <form data-path="blog/post/create" method="post" novalidate>
            {{ form }} <button>Save</button> <output></output></form>
            <script type="module" src="{% static 'blog/forms.js' %}"></script>
            """
        self.project.append("mysite/urls.py", urls)
        self.project.write({"blog/templates/blog/django.html": page})
        self.open("django/")
        self.enter("title", "New")
        self.click("button")
        self.wait_for_output("", "This field is required.")
        self.find("[name=category]").send_keys("Category")
        self.wait_for_output("")
        self.enter("tags", "css, html")
        self.click("button")
        self.wait_for_output("Saved.")
        stored = self.stored("title, category_id, author_id", "id > 25")
        self.assertEqual(stored, [("New", 1, 1)])
        self.assert_refused(400)

    def test_visitors_log_in_and_come_back_to_the_first_page(self):
        self.open("accounts/login/")
        self.browser.delete_cookie("sessionid")
        self.open("")
        self.log_in_and_return("/")
        self.wait_for(20, lambda: len(self.texts("li")))

    def test_a_form_edits_a_post_and_saves_it_twice(self):
        self.open("edit/1/")
        value = "document.querySelector('[name=title]').value"
        self.wait_for("<i>1</i>", self.seen, value)
        self.enter("tags", "css, html")
        for title in ("<i>1</i>!", "<i>1</i>!!"):
            self.enter("title", "!")
            self.click("button")
            self.wait_for(title, lambda: self.stored()[0][0])
            self.wait_for_output("Saved.")
        self.assertEqual(self.stored("published"), [(True,)])
        self.browser.refresh()
        self.wait_for(title, self.seen, value)
        tags = self.seen("document.querySelector('[name=tags]').value")
        self.assertEqual(tags, "css, html")

    def test_a_form_tells_of_another_persons_change_and_asks_what_to_do(self):
        read = "[...document.querySelectorAll('[name]:not([type=hidden])')].map"
        read += "(input => input.type === 'checkbox' ? input.checked : input.value)"
        # The other person writes a title and tags; ann types into one of the inputs.
        for button, name, expected in (
            ("#theirs", "title", ["theirs", "1", "theirs", True]),
            ("#mine", "title", ["<i>1</i> mine", "1", "theirs", True]),
            ("#mine", "tags", ["theirs", "1", "css, mine", True]),
        ):
            with self.subTest(button, name=name):
                self.write({"title": "<i>1</i>", "tags": "css", "published": True})
                self.open("edit/1/")
                self.wait_for(["<i>1</i>", "1", "css", True], self.seen, read)
                self.write({"title": "theirs", "tags": "theirs"})
                self.enter(name, " mine" if name == "title" else ", mine")
                self.click("button")
                self.wait_for_output("Somebody else has changed this record.")
                self.assert_refused(409)
                self.click(button)
                if button == "#theirs":
                    self.wait_for(expected, self.seen, read)
                    self.click("form button")
                self.wait_for_output("Saved.")
                self.assertEqual(self.texts("p"), [])
                self.assertEqual(self.seen(read), expected)
                self.browser.refresh()
                self.wait_for(expected, self.seen, read)

    def test_a_form_keeps_what_is_ticked_when_it_is_refused_twice(self):
        self.open("edit/1/")
        self.wait_for("<i>1</i>", self.seen, "document.forms[0].elements.title.value")
        self.enter("title", "!")
        self.click("[name=published]")
        for tags in ("css", "css, html"):
            self.write({"title": "theirs", "tags": tags})
            self.click("#mine" if self.texts("p") else "button")
            self.wait_for(1, lambda: len(self.texts("p")))
            # The record changes once more before the next click.
        self.assert_refused(409, 409)
        self.click("#mine")
        self.wait_for_output("Saved.")
        stored = self.stored("title, published")
        self.assertEqual(stored, [("<i>1</i>!", False)])
        tags = self.seen("document.forms[0].elements.tags.value")
        self.assertEqual(tags, "css, html")

    def write(self, values):
        """Update post 1 as another page would."""
        script = 'return (await import("/ajax/client.js")).default(...arguments)'
        if not self.browser.current_url.startswith(self.site):
            self.open("accounts/login/")
        self.browser.execute_script(script, "blog/post/1/update", values)

    def test_a_file_is_sent_with_its_progress_and_its_delete_undone(self):
        self.open("photos/1/")
        self.click("button")
        self.wait_for_output("", "This field cannot be blank.")
        self.assert_refused(400)
        sent = self.project.folder / "a.jpg"
        sent.write_text("words" * 100_000)
        self.enter("file", str(sent))
        self.click("button")
        self.wait_for_output("Saved.")
        self.assertEqual(self.find("progress").get_property("value"), 1)
        kept = self.project.folder / "media/photos/a.jpg"
        self.assertEqual(kept.read_text(), sent.read_text())
        for before, deleted, after in ("Delete", 1, "Undo"), ("Undo", 0, "Delete"):
            self.assertEqual(self.texts("li"), [f"/media/photos/a.jpg {before}"])
            self.click("li button")
            self.wait_for([after], self.texts, "li button")
            self.assertEqual(self.stored("deleted", table="photo"), [(deleted,)])
        self.open("photos/1/")
        self.wait_for(["/media/photos/a.jpg Delete"], self.texts, "li")
        self.browser.set_network_conditions(offline=True, latency=0, throughput=0)
        self.click("button")
        self.wait_for_output("No answer.")
        self.click("li button")
        self.wait_for_output("The server cannot be reached.")
        self.browser.delete_network_conditions()
        self.assert_refused(*["net::ERR_INTERNET_DISCONNECTED"] * 2)

    def test_a_list_is_searched_and_paged(self):
        self.open("posts/")
        shown = "li, output, button:enabled"
        titles = [f"<i>{number}</i>" for number in range(25, 0, -1)]
        second = [*titles[10:20], "Back", "2 of 3", "Next"]
        third = [*titles[20:], "Back", "3 of 3"]
        self.wait_for([*titles[:10], "1 of 3", "Next"], self.texts, shown)
        for button, expected in ("next", second), ("next", third), ("back", second):
            self.click(f"#{button}")
            self.wait_for(expected, self.texts, shown)
        self.enter("search", "<i>12")
        self.wait_for(["<i>12</i>", "1 of 1"], self.texts, shown)
        self.enter("published", "Drafts")
        self.wait_for(["1 of 1"], self.texts, shown)
        # A browser without inputs for dates sends any text.
        script = """
            const input = document.forms[0].elements.created__gte;
            Object.assign(input, {type: "text", value: arguments[0]});
            input.dispatchEvent(new Event("input", {bubbles: true}));
            """
        self.browser.execute_script(script, "yesterday")
        self.wait_for_output("", "Enter a valid date/time.")
        self.assert_refused(400)
        self.browser.execute_script(script, "2026-01-01")
        self.wait_for_output("1 of 1")

    def test_a_list_grows_by_what_comes_after_the_last_record(self):
        self.open("feed/")
        titles = [f"<i>{number}</i>" for number in range(25, 0, -1)]
        for count in (10, 20, 25):
            self.wait_for(titles[:count], self.texts, "li")
            self.click("button") if count < 25 else None
        self.wait_for([], self.texts, "button")

    def test_a_login_leads_back_to_the_page_and_to_what_was_typed(self):
        self.open("")
        self.wait_for_categories()
        self.enter("title", "Kept")
        self.browser.delete_cookie("sessionid")
        self.click("button")
        self.wait_for_output("Please log in. Log in, in a new tab")
        self.click("output a")
        self.wait_for(2, lambda: len(self.browser.window_handles))
        first, second = self.browser.window_handles
        self.browser.switch_to.window(second)
        self.log_in_and_return("/")
        self.browser.close()
        self.browser.switch_to.window(first)
        self.click("button")
        self.wait_for_output("Saved.")
        self.assertEqual(self.stored("title, author_id", "id > 25"), [("Kept", 1)])
        self.assert_refused(403)
        # A call that only reads leads there by itself.
        self.browser.delete_cookie("sessionid")
        read = 'import("/ajax/client.js").then(({default: ajax}) => ajax("PATH"))'
        read = read.replace("PATH", "blog/post/1/get")
        self.browser.execute_script(f"setTimeout(() => {read})")
        self.log_in_and_return("/")
        self.wait_for(20, lambda: len(self.texts("li")))
        lines = self.browser.get_log("browser")
        self.assertEqual(len(lines), 2, lines)

    def log_in_and_return(self, page):
        self.wait_for("/accounts/login/", self.seen, "location.pathname")
        self.enter("username", "ann")
        self.enter("password", "secret")
        self.click("button")
        self.wait_for(page, self.seen, "location.pathname")

    def test_a_page_knows_who_its_user_is(self):
        text = README.read_text("utf-8")
        [call] = re.findall(r"`const {username} = (await ajax\(.*?\);)`", text)
        page = f'import ajax from "/ajax/client.js"; window.user = {call}'
        page = f'<script type="module">{page}</script>'
        self.project.write({"blog/templates/blog/feed.html": page})
        self.open("feed/")
        self.wait_for({"username": "ann", "is_staff": True}, self.seen, "window.user")

    def test_fetch_and_jquery_call_with_the_token_of_a_template(self):
        refusal = [
            "Please correct the errors.",
            {"title": ["This field cannot be blank."]},
        ]
        for part, package, done in (
            ("$.post(", "jquery/dist/jquery.js", ["by jQuery"]),
            ("await fetch(", None, ["by fetch", None]),
        ):
            for title, logged in (done[0], done), ("", refusal):
                with self.subTest(part, title=title):
                    self.open_block(part, "Hello again", title, package)
                    self.wait_for([logged], self.seen, "logged")
                    self.assertEqual(self.stored(), [(done[0],)])
                    self.assert_refused(*[] if title else [400])

    def test_htmx_puts_html_into_the_page_and_tells_what_was_saved(self):
        for package in "htmx.org/dist/htmx.js", "htmx4/dist/htmx.js":
            with self.subTest(package):
                self.open_block("hx-post", "Hello again", package, package)
                self.click("[hx-target]")
                newest = "document.querySelector('#newest > b')?.textContent"
                self.wait_for("<i>25</i>", self.seen, newest)
                self.click("[hx-vals]")
                self.wait_for([[package]], self.seen, "logged")
                self.assertEqual(self.stored(), [(package,)])


# --- The benchmark --------------------------------------------------------------------

import statistics

from django.contrib.auth.decorators import login_required
from django.views.decorators.http import require_POST


def encode_by_hand(queryset):
    columns = ["pk", "title", "body", "published", "created", "price", "rating"]
    joined = ["category__pk", "category__title", "category__parent"]
    joined += ["author__pk", "author__username"]
    rows = {}
    for values in queryset.values_list(*columns, *joined):
        row = dict(zip(columns, values[:7], strict=True))
        row["category"] = {"pk": values[7], "title": values[8], "parent": values[9]}
        row["author"] = {"pk": values[10], "username": values[11]}
        row["readers"] = []
        row["tags"] = []
        rows[values[0]] = row
    readers = Article.readers.through.objects.filter(article__in=rows)
    for pk, user in readers.values_list("article_id", "user_id"):
        rows[pk]["readers"].append(user)
    kind = ContentType.objects.get_for_model(Article)
    tagged = TaggedItem.objects.filter(content_type=kind, object_id__in=rows)
    names = ("tag__pk", "tag__name", "tag__slug")
    for pk, tag, name, slug in tagged.values_list("object_id", *names):
        rows[pk]["tags"].append({"pk": tag, "name": name, "slug": slug})
    return list(rows.values())


def hand_get(request, pk):
    return JsonResponse(encode_by_hand(Article.objects.filter(pk=pk))[0])


def hand_list(request):
    size = int(request.POST["items_per_page"])
    articles = Article.objects.all()
    page = encode_by_hand(articles.order_by("-created", "pk")[:size])
    return JsonResponse({"total": articles.count(), "data": page})


urlpatterns += [
    path("hand/list", login_required(require_POST(hand_list))),
    path("hand/<int:pk>/get", login_required(require_POST(hand_get))),
]


def measure(client, path_, data):
    """Return the CPU seconds of one call."""
    start = time.process_time()
    response = client.post(path_, data)
    seconds = time.process_time() - start
    assert response.status_code == 200, response.content
    return seconds


@mock.patch.object(ArticleEndpoint, "max_per_page", 1000)
def bench(rounds=21):
    """Print a table: reading by ajax.py, and as an expert would write it by hand."""
    runner = DiscoverRunner(verbosity=0)
    databases = runner.setup_databases()
    user = User.objects.create_user("bench")
    client = Client()
    client.force_login(user)
    category = Category.objects.create(title="News")
    for number in range(1000):
        article = Article.objects.create(
            category=category,
            author=user,
            title="T",
            body="Lorem ipsum. " * 40,
            price=number,
        )
        article.tags.add(*(f"t{(number * 7 + step) % 28}" for step in range(3)))
    print(sys.version, "Django", django.get_version(), connection.vendor, "\n")
    print("| operation | by hand | ajax.py / by hand |\n|---|---|---|")
    operations = [("get 1", f"{article.pk}/get", {})]
    for size in (20, 100, 1000):
        operations.append((f"list {size}", "list", {"items_per_page": size}))
    for operation, path_, data in operations:
        ours, by_hand = [], []
        for _round in range(rounds):
            ours.append(measure(client, f"/ajax/shop/article/{path_}.json", data))
            by_hand.append(measure(client, f"/hand/{path_}", data))
        median = statistics.median(by_hand)
        times = statistics.median(ours) / median
        print(f"| {operation} | {median * 1e6:,.0f} µs | {times:.2f} |")
    runner.teardown_databases(databases)


# --- Running --------------------------------------------------------------------------

from django.core import mail

# Settings that only tests need. A table is made from its model, without migrations.
settings.DATABASES["default"]["TEST"]["MIGRATE"] = False
override_settings(
    ALLOWED_HOSTS=["testserver"],
    MEDIA_URL="/media/",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    # The endpoints are made for the tests, some of which call `check_ajax`.
    SILENCED_SYSTEM_CHECKS=[f"ajax.W00{number}" for number in (1, 3, 4, 5, 6, 7)],
    STORAGES={"default": {"BACKEND": "django.core.files.storage.InMemoryStorage"}},
    TIME_ZONE="UTC",
).enable()
logging.getLogger("django").handlers = [logging.NullHandler()]
logging.getLogger("django").propagate = False


def setUpModule():
    """Create the test database for a runner that knows nothing of Django, as pytest."""
    if hasattr(mail, "outbox"):
        return  # Django's runner, or pytest-django, has set up what it needs.
    runner = DiscoverRunner(verbosity=0, interactive=False)
    runner.setup_test_environment()
    unittest.addModuleCleanup(runner.teardown_test_environment)
    databases = runner.setup_databases()
    unittest.addModuleCleanup(runner.teardown_databases, databases)


def main():
    """Do what the command line says; return the exit status.

        python test_ajax.py                 run all tests
        python test_ajax.py Urls Lists      run these classes; Urls.test_... is a test
        python test_ajax.py bench           compare with views that are made by hand
        python test_ajax.py fuzz [20000]    make this many random calls

    AJAX_TEST_DATABASE=postgres://user@host:port/name runs the tests on PostgreSQL,
    mysql://user@host:port/name on MariaDB. AJAX_SHUFFLE=1 runs them in a random order,
    which the number chooses. AJAX_EXCLUDE_TAG=browser leaves out the tests that want a
    browser or npm.
    """
    arguments = sys.argv[1:]
    if arguments == ["bench"]:
        return bench()
    if arguments[:1] == ["fuzz"]:
        Fuzz.IS_SAME = False
        Fuzz.EXAMPLES = 2000
        if len(arguments) > 1:
            Fuzz.EXAMPLES = int(arguments[1])
        arguments = ["Fuzz"]
    labels = []
    for name in arguments:
        labels.append(f"test_ajax.{name.removeprefix('test_ajax.')}")
    shuffle = int(os.environ.get("AJAX_SHUFFLE", 0)) or False
    excluded_tags = [os.environ.get("AJAX_EXCLUDE_TAG", "")]
    runner = DiscoverRunner(shuffle=shuffle, exclude_tags=excluded_tags)
    return bool(runner.run_tests(labels or ["test_ajax"]))
