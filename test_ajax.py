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
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection, connections, transaction
from django.db.utils import IntegrityError
from django.http import Http404, HttpResponse, JsonResponse
from django.middleware.csrf import get_token
from django.shortcuts import get_object_or_404
from django.test import Client, TransactionTestCase
from django.test.runner import DiscoverRunner
from django.test.testcases import SimpleTestCase
from django.test.utils import CaptureQueriesContext, isolate_apps, override_settings
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


@functools.lru_cache(maxsize=64)
def make_validators(served, encoders, discovery, uses_time_zones):
    """Return by path what checks a reply against openapi.json.

    The arguments are what that depends on: another one makes other validators.
    """
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
                        sid = transaction.savepoint()
                        response = self.client.post(f"/5/{path_}.json")
                        self.assertEqual(response.json()["data"], data)
                        transaction.savepoint_rollback(sid)
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
        at, key, deep = "line 1 column|char", "title|level|column|in 0", "64|deep"
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
        of_forms = [
            (self.FORM, b"title=%00", key),
            (self.FORM, b"title=A&title=b%00", key),
            (self.FORM, b"title%00=A", key),
            (self.FORM, b"title=%ff", "."),
            (self.FORM, b"title=\xff", "."),
            (self.MULTIPART, self.part(b"title", b"a\0"), key),
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
            (part("[1]"), "has to be an object"),
            (part("null"), "has to be an object"),
            (part('{"words": NaN}'), 'in "words"'),
            (part('{"words": "\\u0000"}'), 'in "words"'),
            (part('{"words": "\\udfff"}'), 'in "words"'),
            (part('{"words": "\0"}'), "application/json"),
            (part('{"a": 1, "a": 1}'), '"a" stands twice'),
            (part('{"a":' * 65 + "1" + "}" * 65), "too deeply"),
            (part("{}") * 2, "send only files"),
            (part("{}") + part("1", "words"), "send only files"),
            (part("{}") + part("1", "words[]"), "send only files"),
            (part('{"file": null}') + file, '"file" stands twice'),
            (part("{}") + file * 2, '"file" stands twice'),
            (part("{}") + file + file.replace('"file"', '"file[]"'), "stands twice"),
            (part("{}") + file.replace('"file"', '"fi\0le"'), "Null characters"),
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
    __all__ = ["listed", "short", "Klass", "endpoint", "_private", "number"]
    def listed(request): return 1
    def short(req): return 1
    def unlisted(request): return 1
    def _private(request): return 1
    class Klass(Base): pass
    endpoint, other, number = Klass(), Klass(), 1
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
        }
        User.objects.filter(pk=self.user.pk).update(is_superuser=True)
        self.assertEqual(self.exposed("tools"), expected)
        self.assertEqual(self.exposed("others"), {"imported", "shared"})

    def test_only_the_names_in_all_are_exposed(self):
        self.assertEqual(self.exposed("listing"), {"listed", "short", "endpoint"})
        self.assertEqual(self.exposed("empty"), set())

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
                    hint = f"tools.endpoints.{name} is not exposed: see"
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

    def test_a_record_parameter_takes_exactly_what_get_answers(self):
        with self.apps(zoo=VALIDATED):
            for attributes in [
                {},
                {"authenticate": no},
                {"operations": ["list"]},
                {"can_get": no},
                {"can_get": lambda self, user, note: note.text == "mine"},
                {"get_queryset": lambda self, request: Note.objects.all()},
                {"get_queryset": lambda self, request: Note.objects.none()},
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
            ("request, *a: int", "'a' cannot be passed by its name"),
            ("request, **a: int", "'a' cannot be passed by its name"),
            ("request, a: int, /", "'a' cannot be passed by its name"),
            ("request, _a: int", "'_a' is never read"),
            ("request, a: set", "which ajax.py cannot read"),
            ("request, a: list", "which ajax.py cannot read"),
            ("request, a: list[list[str]]", "list of what is neither"),
            ("request, a: list[dict]", "list of what is neither"),
            ("request, a: list[int | None]", "list of what is neither"),
            ("request, a: int | str", "union of several types"),
            ("request, a: typing.Literal['1', 1]", "neither all texts nor all"),
            ("request, a: typing.Annotated[int, int]", "no validator and no field"),
            ("request, a: typing.Annotated[int, 5]", "no validator and no field"),
            ("request, a: 'Nowhere'", "Nowhere"),
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
            f"{source}def f(request, a: typing.Annotated[{one}]): pass", "one field"
        )

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
                self.assertIn(f"line {line}", str(caught.exception))
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


# --- Fields ---------------------------------------------------------------------------


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

#: What each kind of field stores for a JSON value, and for its text in a form.
TAKEN = [  # field, sent, stored
    ("char", "abc", "abc"),
    ("char", 5, "5"),
    ("char", "ä€😀", "ä€😀"),
    ("kind", "a", "a"),
    ("text", " x\n" * 999, " x\n" * 999),
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
    ("country", "fr", "fr"),
    ("twin", 7002, 7002),
]

#: Values that JSON and forms read in different ways.
READ_BY = [  # field, sent, in a form, stored
    ("char", None, False, None),
    ("char", "", False, ""),
    ("char", "", True, ""),
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
    "binary": ["x", "A===", "ä", 5, True, "AAECAwQF"],
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
    "tags": [5, None, [5], [None], [{}], [""], ["a" * 101], [*map(str, range(101))]],
}

JSON, FORM = {}, {"form": True}
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
        {"fields": ["username", "password", "is_staff"]},
        {"username": "eve", "password": "x", "is_staff": True},
        {"username": "eve", "password": "x", "is_staff": True},
    ),
]


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

#: Misspelt names that would silently leave something open, and the right ones.
MISSPELT_NAMES = {
    "read_only_fields": "readonly_fields",
    "readonly_field": "readonly_fields",
    "excludes": "exclude",
    "list_filters": "list_filter",
    "operation": "operations",
    "require_permission": "require_permissions",
    "can_lst": "can_list",
    "can_gett": "can_get",
    "get_querysets": "get_queryset",
    "authentication": "authenticate",
    "_save": "save_record",
    "_extract_data": "prepare_record",
}


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
        self.addCleanup(ajax._make_plan.cache_clear)
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

    def test_register_refuses_names_that_would_silently_open_an_endpoint(self):
        for name, instead in MISSPELT_NAMES.items():
            value = yes if instead[:3] in ("can", "get") else ["title"]
            mixin = type("Mixin", (), {name: value})
            wrong = type("Wrong", (mixin, OpenEndpoint), {})
            with self.subTest(name):
                with self.assertRaises(ImproperlyConfigured) as caught:
                    ajax.endpoint.register(Group, wrong)
                for word in (name, instead):
                    self.assertRegex(str(caught.exception), rf"\b{word}\b")
        for served, name in ((Group, "user_set"), (Track, "livetrack")):
            with self.assertRaisesMessage(ImproperlyConfigured, name):
                self.serve(served, fields=["pk", name])  # A reverse relation.
        with mock.patch.object(Group, "__exclude__", ["name"], create=True):
            with self.assertRaisesMessage(ImproperlyConfigured, "__exclude__"):
                self.serve(Group)
        # Other names are the project's own.
        self.serve(Group, can_publish=yes, author_fields=[], save=yes)

    def test_no_operation_takes_the_place_of_the_endpoints_own_attributes(self):
        for name in [
            "request", "user", "model", "pk", "record", "method", "command",
            "application", "_authorize", "_run", "_find_operation", "_plan",
        ]:  # fmt: skip
            with self.subTest(name):
                with self.assertRaisesMessage(ImproperlyConfigured, f".{name}:"):
                    self.serve(Group, **{name: lambda self, request: "x"})

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
                "": ["", 0, -1, -0.5, durations[2]],
                "one two": ["24:00:00", 2**31, *durations[:2]],
            },
            "json__key": {"": scalars, "one": ["x", mixed]},
            "country": {"": ["", "x", 0, -1], "two bare": null_text},
            "country__name__startswith": {"": scalars, "one": [""]},
            "country__isnull": {"one": ["", 0], "two bare": [True]},
            "country__pk": {"": [*all_texts, *numbers, mixed], "two bare": null},
            "keepers": {"bare": null_text, "": [0, -1, 2**31]},
            "twin": {"one bare": null_text, "": [0, -1, 2**31]},
            "positive": {"one two bare": null_text, "": [*integers, "9" * 20]},
            "json": {"": [*scalars, *objects], "bare": null_text},
            "address": {
                "": ["", *texts, *numbers, mixed],
                "one two bare": null_text,
            },
            "slug__endswith": {"": scalars, "one": ["", -1]},
            "moment__time": {},
            "file": {
                "": [*all_texts, *numbers, mixed, *null],
                "one two bare": [""],
            },
            "moment__week_day": {"": ["9" * 20, True, *numbers]},
            "moment__year__gte": {"one two": [True]},
            "keepers__date_joined__date": {"": days},
            "duration": {
                "": ["", "24:00:00", 0, -1, 2**31, -0.5, *durations],
                "bare": null_text,
            },
            "binary": {
                "": ["", *texts, "9" * 5000, -(2**64)],
                "one two bare": null_text,
            },
            "float": {"bare": null_text, "": ["9" * 20, *numbers]},
            "decimal": {"bare": null_text, "": ["1e400", *long_digits, *numbers]},
            "tags": {"": all_texts},
        }
        varying = {
            "address": [*texts, *numbers, mixed],
            "binary": [*texts, -(2**64)],
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
        values += [{}, 2**70, ""]
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


# --- Forms ----------------------------------------------------------------------------

from django.contrib.auth.forms import SetPasswordForm

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
    kind = models.ForeignKey(ContentType, models.CASCADE)
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

        def forbidden(self, request):
            raise AssertionError("A refused user must not get this far.")

        pk = self.article.pk
        for attributes in [
            {"authenticate": no, "get_queryset": forbidden, "can_get": forbidden},
            {"authenticate": deny, "get_queryset": forbidden},
            {"authenticate": refuse, "get_queryset": forbidden},
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

    def test_a_generic_key_that_is_no_key_of_its_model_is_null(self):
        article = ContentType.objects.get_for_model(Article)
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
        if isinstance(value, TicketNumber):
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
        unreadable = {"zone": ["This value cannot be read."]}
        self.assertEqual(self.errors(path, {"zone": "Nowhere"}), unreadable)
        for path_ in ("shop/clock/list", "shop/clockform"):
            self.assertEqual([*self.errors(path_, {"zone": "Nowhere"})], ["zone"])
        self.assertEqual([*self.errors(path, {"state": "fast"})], ["state"])
        self.assertEqual(self.shown(clock)["state"], "slow")

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
        self.stay.extra_rooms.clear()
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
        self.assertEqual(self.update(playlist, tags=[])["tags"], [])


# --- What endpoints add to records ----------------------------------------------------

from django.db.models import Avg, Count, Exists, OuterRef, Q, Value
from django.db.models.functions import Coalesce, TruncDate


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
            ({"stars": models.F("ratings__stars")}, "gives several values"),
            ({"stars": Coalesce("ratings__stars", 0)}, "gives several values"),
            (
                {"stars": models.Case(models.When(ratings__stars=1, then=Value(1)))},
                "gives several values",
            ),
            ({"stars": 5}, "neither an expression nor a function"),
        ]:
            with self.subTest(annotations):
                with self.assertRaisesMessage(ImproperlyConfigured, words):
                    self.serve(Recipe, annotations=annotations)
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
            with self.assertRaisesMessage(SystemCheckError, "auth.Permission"):
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
        for attributes in [
            {"version_field": "fans"},
            {"version_field": "nothing"},
            {"version_field": "changed", "fields": ["title"]},
            {"version_field": "changed", "exclude": ["changed"]},
        ]:
            with self.subTest(attributes):
                with self.assertRaisesMessage(ImproperlyConfigured, "version_field"):
                    self.serve(Recipe, **attributes)

    def test_it_is_described(self):
        with self.settings(DEBUG=True):
            paths = self.client.get("/ajax/openapi.json").json()["paths"]
        for operation in ("update", "delete"):
            call = paths[f"/shop/recipe/{{pk}}/{operation}.json"]["post"]
            schema = call["requestBody"]["content"]["application/json"]["schema"]
            self.assertIn("changed", schema["properties"])
            self.assertNotIn("changed", schema["required"])


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


ajax.endpoint.register([Playlist, Genre, Spark], OpenEndpoint)


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
        wrong = (None, 7, {}, [7], [None], [{}], [["a"]], ["x" * 101], [""], many)
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
            message = "This needs a record: add its pk to the path."
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

import base64
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
    "http://[", "http://a.example", "http://\u2100.example", "../../x",
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
    "decimal": st.decimals("-999.99", "999.99", places=2).map(str),
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

    checker = jsonschema.FormatChecker(["date", "date-time", "uuid"])
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
    MODELS = "article note specimen country supplier offer category crate".split()
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
        of_values = re.compile("specimen.*(create|update|list|form)")
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
            return st.lists(self.values(schema["items"]), max_size=3)
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
        # An empty list may belong to a field that has to have members.
        whole = {key: value for key, value in got.items() if value != []}
        updated = self.call_again(user, f"{model}/{{pk}}/update.json", pk, whole)
        self.assertEqual(updated, got)
        listed = self.call_again(user, f"{model}/list.json", pk, {})
        self.assertIn(got, listed)
        if model == "/shop/specimen":  # The record breaks no filter.
            sent = {"moment__date": "2024-05-06"}
            self.call_again(user, "/shop/specimen/list.json", pk, sent)

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


class BrowserTestCase(LiveServerTestCase):
    """Has a browser; what fails to load stands in its console."""

    REFUSED = re.compile(r"Failed to load resource: .*?(?:status of (\d+)|(net::\w+))")

    @classmethod
    def setUpClass(cls):
        start_browser(cls)
        super().setUpClass()

    def setUp(self):
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

    def test_errors_are_shown_at_their_inputs_until_the_person_goes_on(self):
        outside = "<input form=f name=email value=x><button form=f>Send</button>"
        self.show(f"<form id=f><input name=text type=hidden></form>{outside}")
        script = """
            window.sent ??= 0;
            form.onsubmit = event => { window.sent++; event.preventDefault(); };
            const error = args[0] ?? await ajax("shop/contactform", form).catch(e => e);
            const rest = ajax.showErrors(form, error);
            return [rest, form.email.validationMessage, document.activeElement.name];
        """
        required, said = "text: This field is required.", "Enter a valid email address."
        pressed = [("button", "\n", 1), ("input", "\n", 2), ("input", "y", 2)]
        for name, keys, sent in pressed:
            self.assertEqual(self.run_in_page(script), [required, said, "email"])
            self.browser.find_element("css selector", f"{name}[form]").send_keys(keys)
            left = "return [window.sent, form.email.validationMessage]"
            self.assertEqual(self.run_in_page(left), [sent, ""])
        self.show("<form><input name=email value=x></form>")  # Has no button.
        self.run_in_page(script)
        self.browser.find_element("css selector", "input").send_keys("\n")
        self.assertEqual(self.run_in_page("return window.sent"), 3)
        self.assert_refused(400, 400, 400, 400)
        whole = {"errors": {"__all__": ["No.", "Never."], "odd": ["?"]}}
        for error, rest in ((whole, "No. Never.\nodd: ?"), ({"message": "?"}, "?")):
            self.assertEqual(self.run_in_page(script, error)[:2], [rest, ""])

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
        self.assertLessEqual(len(ajax._CLIENT.splitlines()), 200)
        self.assertLess(len(gzip.compress(ajax._CLIENT.encode())), 4 * 1024)

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


# --- OpenAPI --------------------------------------------------------------------------

import openapi_spec_validator


class OpenAPI(AjaxTestCase):
    def described(self):
        with self.settings(DEBUG=True):
            return self.client.get("/ajax/openapi.json").json()

    def test_it_is_valid_openapi(self):
        openapi_spec_validator.validate(self.described())

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
            for name in ("", "explorer.js", "explorer.css", "openapi.json"):
                with self.subTest(name, user=user):
                    response = client.get(f"/ajax/{name}")
                    self.assertEqual(response.status_code, status)
                    self.assertEqual(client.post(f"/ajax/{name}").status_code, 405)
                    if status == 200:
                        names = ("Cache-Control", "X-Frame-Options", "Vary")
                        kept = [response[name] for name in names]
                        self.assertEqual(kept, ["no-store", "DENY", "Cookie"])

    def test_it_says_who_asks(self):
        for user, said in (
            (self.user, "You are ann."),
            (None, "You are not logged in."),
        ):
            self.client.force_login(user) if user else self.client.logout()
            self.assertEqual(self.described()["x-ajax"]["you"], said)

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
        choices.append({"const": None, "title": "null"})
        for name, schema in {
            "char": {"type": ["string", null], "maxLength": 5},
            "words": text | {"maxLength": 20},
            "kind": {"type": ["string", null], "oneOf": choices},
            "text": {"type": ["string", null], "x-ajax": {"multiline": True}},
            "big": {"type": ["integer", "string", null]},
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
        shown = self.described()["components"]["schemas"]["shop.article"]["properties"]
        read = {name for name, schema in shown.items() if schema.get("readOnly")}
        self.assertEqual(read, {"pk", "author"})

    def test_it_says_what_a_form_wants(self):
        required = self.body("/shop/pollform.json")[0]["required"]
        self.assertEqual(required, ["day", "hours"])

    @isolate_apps("test_ajax")
    def test_a_key_of_a_kind_of_its_own_is_text(self):
        ULIDField = type("ULIDField", (models.Field,), {"db_type": lambda *_: "text"})
        Badge = make_model("Badge", code=ULIDField(primary_key=True))
        Guard = make_model("Guard", badge=models.ForeignKey(Badge, models.CASCADE))
        self.serve(Badge, can_get=no)
        self.serve(Guard)
        schema = self.described()["components"]["schemas"]["shop.guard"]
        kinds = schema["properties"]["badge"]["type"]
        self.assertEqual(kinds, ["object", "string", "null"])

    def test_it_says_what_a_list_takes(self):
        taken, _kinds = self.body("/shop/article/list.json")
        sized, text = {"items_per_page", "current_page"}, {"type": "string"}
        asked = "category published created__gte readers tags search order_by".split()
        self.assertEqual({*taken["properties"]}, {*asked, *sized})
        self.assertEqual(taken["properties"]["created__gte"], text)
        self.assertEqual(taken["properties"]["published"], {"type": ["boolean"]})
        self.assertIn("category__title", taken["properties"]["order_by"]["description"])
        taken, _kinds = self.body("/shop/supplier/list.json")
        self.assertEqual({*taken["properties"]}, sized)

    def test_it_says_what_a_tags_command_takes_and_what_is_asked_before(self):
        paths = self.described()["paths"]
        for name, taken, asks, hook in (
            ("tags/add", ["tags"], None, "can_update"),
            ("tags/clear", None, "Take all tags away?", "can_update"),
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


# --- Explorer -------------------------------------------------------------------------


def be_strict(get_response):
    """Set a policy; and as all threads share the tests' connection, one at a time."""
    lock = threading.Lock()

    def answer(request):
        with lock:
            response = get_response(request)
        response["Content-Security-Policy"] = "default-src 'self'"
        return response

    return answer


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

    def resize(self, width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def explore(self, where=""):
        self.browser.get("about:blank")
        self.visit(f"/ajax/#{where}", self.user)
        self.wait("#calls a, #about:not(:empty)")

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def wait(self, selector):
        """Wait until something is there; return it."""
        return WebDriverWait(self.browser, 10, 0.02).until(
            lambda browser: browser.find_elements("css selector", selector)
        )[0]

    def box(self, name):
        return self.find(f"article [id$=':{name}']")

    def fill(self, **values):
        for name, value in values.items():
            box = self.box(name)
            if box.tag_name == "select":
                Select(box).select_by_visible_text(value)
            else:
                box.send_keys(value)

    def press(self):
        """Press the button; return the line of the status, and the reply."""
        script = "document.querySelector('.reply').textContent = ''"
        self.browser.execute_script(script)
        self.find("[type=submit]").click()
        with contextlib.suppress(NoAlertPresentException):
            self.browser.switch_to.alert.accept()
        line = self.wait("article [role=status] strong").text
        return line, self.reply()

    def reply(self):
        return json.loads(self.wait(".reply:not(:empty)").text)

    def complaint(self):
        return self.find("article [role=status] .bad").text

    def test_a_record_is_created_read_changed_tagged_and_deleted(self):
        self.explore("shop/article/create")
        self.fill(title="x" * 201, price="a lot")
        line, _reply = self.press()
        self.assertRegex(line, r"^400 Bad Request, \d+ ms, [\d,]+ bytes$")
        self.assertEqual(self.complaint(), "Please correct the errors.")
        for name, said in {
            "title": "at most 200 characters", "price": "must be a decimal number",
            "category": "cannot be null",
        }.items():  # fmt: skip
            box = self.box(name)
            self.assertEqual(box.get_attribute("aria-invalid"), "true")
            help_ = box.get_attribute("aria-describedby").split()[1]
            self.assertIn(said, self.find(f"[id='{help_}']").text)
        self.box("title").clear()
        self.box("price").clear()
        self.fill(title="New", price="1.5", category=str(self.news.pk), tags="a, b c")
        _line, reply = self.press()
        made = reply["data"]
        self.assertEqual(self.box("title").get_attribute("aria-invalid"), "false")
        self.assertEqual([each["name"] for each in made["tags"]], ["a", "b c"])
        self.explore("shop/article/{pk}/update")
        self.fill(pk=str(made["pk"]), title="Newer", published="true")
        _line, reply = self.press()
        changed = (reply["data"]["title"], reply["data"]["published"])
        self.assertEqual(changed, ("Newer", True))
        for name in ("get", "tags/similar", "tags/clear", "delete"):
            # The pk goes with it.
            self.find(f"nav a[href$='article/{{pk}}/{name}']").click()
            self.wait("h2:focus")
            self.assertEqual(self.box("pk").get_attribute("value"), str(made["pk"]))
            line, reply = self.press()
            self.assertTrue(line.startswith("200 OK"), line)
        self.assertFalse(Article.objects.filter(title="Newer").exists())
        self.assertEqual(reply["data"], {"pk": made["pk"]})
        self.assert_refused(400)

    def test_each_kind_of_box_sends_what_it_holds(self):
        file = tempfile.NamedTemporaryFile("w", suffix=".txt")
        self.addCleanup(file.close)
        print("words", file=file, flush=True)
        self.explore("shop/specimen/create")
        self.fill(
            char='""', text="words", kind="B", integer="7", big=str(2**60), url="null",
            boolean="null", ticked="false", country="null", json='{"a": [1]}',
            keepers=f"{self.user.pk}, {self.other.pk}", file=file.name, decimal="1.50",
        )  # fmt: skip
        _line, reply = self.press()
        self.assertTrue(reply["success"], reply)
        found = {name: reply["data"][name] for name in "char text kind json".split()}
        expected = {"char": "", "text": "words", "kind": "b", "json": {"a": [1]}}
        self.assertEqual(found, expected)
        specimen = Specimen.objects.get()
        values = (specimen.integer, specimen.big, specimen.boolean, specimen.ticked)
        self.assertEqual(values, (7, 2**60, None, False))
        self.assertEqual(specimen.keepers.count(), 2)
        self.assertIn("/media/specimens/", reply["data"]["file"])
        echo = mock.Mock(side_effect=lambda request: request.data)
        self.explore("shop/ask")
        for text, data in (('{"a": [null]}', {"a": [None]}), ("[1]", [1])):
            self.box("body").clear()
            self.fill(body=text)
            with mock.patch.object(ask, "answer", echo, create=True):
                self.assertEqual(self.press()[1]["data"], data)
        self.box("body").send_keys("{")
        self.find("[type=submit]").click()
        self.assertTrue(self.box("body").get_property("validationMessage"))

    def test_the_same_call_is_given_as_javascript_and_as_a_curl_line(self):
        self.explore(f"shop/article/{self.article.pk}/update")
        self.fill(title='It\'s "new" é', tags="a b,c")
        reply = self.press()[1]
        script, curl = (each.text for each in self.browser.find_elements(
            "css selector", "pre:not(.reply, #about)"
        ))  # fmt: skip
        sent = '{title: "It\'s \\"new\\" é", tags: ["a b", "c"]}'
        path_ = f"shop/article/{self.article.pk}/update"
        self.assertEqual(script, f'await ajax("{path_}", {sent});')
        script = f"""
            const done = arguments[0];
            const {{default: ajax}} = await import("/ajax/client.js");
            done({script.removeprefix("await").removesuffix(";")});
        """
        self.assertEqual(self.browser.execute_async_script(script), reply["data"])
        session = {"SESSION": self.client.cookies["sessionid"].value}
        output = Project(self, {}).run_program("bash", "-c", f"{curl} -s", **session)
        self.assertEqual(json.loads(output), reply)
        buttons = self.browser.find_elements("css selector", ".head button")
        names = [each.get_attribute("aria-label") for each in buttons]
        self.assertEqual(names, ["Copy JavaScript", "Copy curl"])
        buttons[0].click()
        self.assertEqual(self.wait(".head small:not(:empty)").text, "Copied")

    def test_calls_are_found_by_a_word_and_by_a_pasted_path(self):
        self.explore()
        count = len(self.browser.find_elements("css selector", "#calls a"))
        self.find("#filter").send_keys("WHOAMI")
        self.assertEqual(self.find("#found").text, f"1 of {count} calls")
        site = self.live_server_url
        for pasted, heading, pk in (
            (f"{site}/ajax/shop/article/7/get.json", "article/{pk}/get", "7"),
            ("shop/country/a%2Fb/update", "country/{pk}/update", "a/b"),
            ("/ajax/shop/hello.json", "hello", None),
        ):
            script = """
                const box = document.querySelector("#filter");
                const inputType = "insertFromPaste";
                box.value = arguments[0];
                box.dispatchEvent(new InputEvent("input", {inputType}));
            """
            self.browser.execute_script(script, pasted)
            WebDriverWait(self.browser, 10).until(
                lambda browser, heading=heading: (
                    self.find("main h2").text == f"shop/{heading}"
                )
            )
            if pk:
                self.assertEqual(self.box("pk").get_attribute("value"), pk)

    def test_all_can_be_done_by_the_keyboard(self):
        self.explore()
        keys = webdriver.Keys

        def press(*pressed):
            for key in pressed:
                self.browser.switch_to.active_element.send_keys(key)

        press(keys.TAB, "article/{pk}/up", keys.ENTER)
        self.assertEqual(self.wait("h2:focus").text, "shop/article/{pk}/update")

        def walk_to(element):
            for _number in range(30):
                press(keys.TAB)
                if self.browser.switch_to.active_element == element:
                    return
            self.fail(f"{element.get_attribute('id')} cannot be reached.")

        walk_to(self.box("pk"))
        press(str(self.article.pk))
        walk_to(self.box("title"))
        press("Typed", keys.ENTER)
        self.assertEqual(self.reply()["data"]["title"], "Typed")
        walk_to(self.find(".reply"))  # Or it could not be scrolled.

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
        self.assertIn("You are ann.", self.find("#you").text)
        self.assert_refused(403, 403)

    def test_odd_names_and_texts_are_shown_as_they_are(self):
        source = "".join(
            f'def call_{number}(request):\n    "Number {number}."\n'
            for number in range(300)
        )
        source += f"def constructor(request):\n    {MARKUP!r}\n"
        self.serve(Odd)
        with self.apps(many=source):
            self.explore("many/constructor")
            self.assertEqual(self.find("article p").text.split(), MARKUP.split())
            links = self.browser.find_elements("css selector", "#calls a")
            self.assertGreater(len(links), 300)
            self.explore("shop/odd/create")
            boxes = self.browser.find_elements("css selector", ".field")
            self.assertEqual(len(boxes), 201)
            choice = self.box("char").find_elements("css selector", "option")[1]
            self.assertEqual(choice.text.split(), MARKUP.split())
            self.assertFalse(self.browser.find_elements("css selector", "b, i"))

    def test_a_broken_endpoints_py_is_named_until_it_is_mended(self):
        with self.apps(broken="import nothing_there"):
            self.explore()
            said = self.find("#about").text
            self.assertIn("broken.endpoints cannot be imported", said)
            self.assertIn("nothing_there", said)
        self.explore()
        self.assertTrue(self.browser.find_elements("css selector", "#calls a"))
        self.assert_refused(500)

    def test_axe_finds_nothing_in_light_or_dark_on_any_width(self):
        axe = (install_packages() / "axe-core/axe.min.js").read_text("utf-8")
        script = "axe.run().then(found => arguments[0](found.violations))"

        def check(*what):
            for scheme, width in itertools.product(("light", "dark"), (320, 390, 1440)):
                feature = {"name": "prefers-color-scheme", "value": scheme}
                command = self.browser.execute_cdp_cmd
                command("Emulation.setEmulatedMedia", {"features": [feature]})
                self.resize(width)
                with self.subTest(*what, scheme=scheme, width=width):
                    found = self.browser.execute_async_script(script)
                    self.assertEqual(found, [])
                    wide = "return document.documentElement.scrollWidth"
                    self.assertLessEqual(self.browser.execute_script(wide), width)

        for where in ("", "shop/specimen/create", f"{self.path}/get"):
            self.explore(where)
            self.browser.execute_script(axe)
            check(where)
        self.press()
        check("a reply")
        self.explore("shop/specimen/create")
        self.browser.execute_script(axe)
        self.fill(char="too long", kind="A")
        self.press()
        check("errors")
        self.assert_refused(400)

    def test_what_was_sent_and_not_written_is_said(self):
        reply = {"success": True, "data": {}, "ignored": ["author", "created"]}
        answer = mock.Mock(side_effect=lambda request: JsonResponse(reply))
        self.explore("shop/ask")
        with mock.patch.object(ask, "answer", answer, create=True):
            self.press()
            note = self.find("article [role=status] small").text
            self.assertEqual(note, "These keys were not written: author, created.")
            del reply["ignored"]
            self.press()
        self.assertEqual(self.find("article [role=status]").text.count("\n"), 0)

    def test_errors_of_any_shape_are_shown(self):
        self.explore("shop/contactform")
        for data, errors, line, said in (
            ({"message": "Bad."}, {"email": "One."}, "Bad.", "One."),
            ({"message": "Bad."}, {"email": {"a": ["One.", 2]}}, "Bad.", "One. 2"),
            ({"message": "Bad."}, {"odd": [["?"]]}, "Bad.\nodd: ?", ""),
            ({"message": "Bad."}, ["One.", "Two."], "Bad.\n__all__: One. Two.", ""),
            ({"message": "Bad."}, "Text.", "Bad.\n__all__: Text.", ""),
            ({"message": "Bad."}, {"email": None}, "Bad.", ""),
            ({"message": "Bad."}, None, "Bad.", ""),
            (None, 5, "__all__: 5", ""),
        ):
            with self.subTest(errors=errors):
                reply = {"success": False, "data": data, "errors": errors}
                response = JsonResponse(reply, status=400)
                answer = mock.Mock(return_value=response)
                with mock.patch.object(ContactEndpoint, "create", answer):
                    status, shown = self.press()
                self.assertEqual(shown, reply)
                self.assertTrue(status.startswith("400 Bad Request"))
                self.assertEqual(self.complaint(), line)
                self.assertEqual(
                    self.find(".field .bad").get_property("textContent"), said
                )
                self.assert_refused(400)
        broken = mock.Mock(return_value=HttpResponse("{", "application/json"))
        with mock.patch.object(ContactEndpoint, "create", broken):
            self.find("[type=submit]").click()
            line = self.wait("article [role=status] strong").text
        self.assertTrue(line.startswith("200 OK"))
        self.assertEqual(self.find(".reply").text, "{")

    def test_the_curl_line_works_as_it_stands(self):
        def only_ann(self, request, application, method):
            return request.user.username == "ann"

        self.serve(Country, authenticate=only_ann)
        self.serve(Specimen, authenticate=only_ann)
        session = {}

        def run_line(where):
            line = self.browser.find_elements("css selector", "pre:not(.reply)")[-1]
            done = subprocess.run(
                ["bash", "-c", f"cd {where}; {line.text} -s"],
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
            ("fields", ["title", "titel"], "title"), ("fields", "title", None),
            ("exclude", ["titel"], "title"), ("readonly_fields", ["autor"], "author"),
            ("immutable_fields", ["autor"], "author"), ("expand", ["autor"], "author"),
            ("expand", ["category__title"], None), ("ordering", ["-titel"], "title"),
            ("sortable_by", ["category__titel"], None),
            ("search_fields", ["^titel"], "title"), ("search_fields", ["pk", ""], None),
            ("list_filter", ["title", "created__titel"], None),
            ("list_filter", ["title__iregex"], None),
            ("list_filter", ["title__regex"], None),
            ("list_filter", ["category__pk__range"], None),
            ("list_filter", ["json__has_key"], None),
            ("operations", ["get", "publsh"], "publish"),
        ]:  # fmt: skip
            with self.subTest(attribute, names=names):
                served = Specimen if "json" in names[0] else Article
                (message,) = self.said("ajax.E002", served, **{attribute: names})
                wrong = names if isinstance(names, str) else names[-1]
                for word in (f"{served.__name__}Endpoint", attribute, repr(wrong)):
                    self.assertIn(word, message)
                if meant:
                    self.assertRegex(message, rf"(?i)did you mean\W.*{meant}\b")

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
            (Specimen, {
                "list_filter": ["json__key__gt", "json__isnull", "tags__name"],
            }),
        ]:  # fmt: skip
            with self.subTest(attributes):
                self.assertEqual(self.said("ajax.E002", served, **attributes), [])

    def test_a_function_or_form_in_the_place_of_a_create_is_e003(self):
        # A class in zoo's endpoints.py serves its model at zoo/group as well.
        for operations, is_told in [(None, True), (["create"], True), (["get"], False)]:
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

    def test_a_model_that_only_expansion_shows_is_w001(self):
        (message,) = self.said("ajax.W001", Permission)
        self.assertIn("PermissionEndpoint", message)
        self.assertIn("contenttypes.ContentType", message)
        for attributes in ({"expand": 0}, {"exclude": ["content_type"]}):
            with self.subTest(attributes):
                self.assertEqual(self.said("ajax.W001", Permission, **attributes), [])
        self.serve(ContentType, fields="__all__")
        self.assertEqual(self.said("ajax.W001", Permission), [])
        self.register_encoder(ContentType, ajax.ExcludeEncoder(exclude=[]))
        self.assertEqual(self.said("ajax.W001", Permission), [])

    def test_so_is_one_behind_a_model_that_can_get_guards(self):
        self.serve(WEB[1], can_get=yes)
        (message,) = self.said("ajax.W001", WEB[0], expand=["to_b__to_c"])
        self.assertIn("Webc", message)

    def test_a_list_that_counts_what_can_get_refuses_is_w003(self):
        both = {"can_get": yes, "can_list": yes}
        narrowed = {"get_queryset": lambda self, request: User.objects.all()}
        for attributes, is_told in [
            (both, True), (both | {"operations": ["get", "list"]}, True),
            (both | {"operations": ["get"]}, False), (both | narrowed, False),
            ({"can_get": yes}, False), ({"can_list": yes}, False), (narrowed, False),
        ]:  # fmt: skip
            with self.subTest(attributes):
                found = self.said("ajax.W003", User, **attributes)
                self.assertEqual(len(found), is_told)

    def test_a_sort_through_a_relation_that_hides_records_is_w005(self):
        narrow = {"get_queryset": lambda self, request: Category.objects.all()}
        for attributes, sorts, is_told in [
            ({"authenticate": yes}, ["category__title"], True),
            (narrow, ["title", "category__parent__title"], True),
            (narrow, ["title", "category"], False),
            ({}, ["category__title"], False),
        ]:
            with self.subTest(attributes, sorts=sorts):
                self.serve(Category, **attributes)
                found = self.said("ajax.W005", Article, sortable_by=sorts)
                self.assertEqual(bool(found), is_told)
                self.doCleanups()

    def test_an_open_endpoint_that_expands_what_wants_a_login_is_w006(self):
        (category, user) = self.said("ajax.W006", Article, authenticate=yes)
        self.assertIn("shop.Category", category)
        self.assertIn("auth.User", user)
        self.assertEqual(self.said("ajax.W006", Article), [])
        self.serve(Category, authenticate=yes)
        self.register_encoder(User, ajax.IncludeEncoder(include=["username"]))
        self.assertEqual(self.said("ajax.W006", Article, authenticate=yes), [])

    def test_callables_that_are_not_exposed_are_named_by_w004(self):
        tools = "giving helper short anything decorated plain_object"
        sources = {"others": OTHERS, "tools": EXPOSED + NOT_EXPOSED, "listing": LISTED}
        with self.apps(**sources):
            for app, lost in [("others", "adding"), ("tools", tools), ("listing", "")]:
                found = " ".join(self.messages("ajax.W004", f"{app}.endpoints"))
                names = re.findall(r"endpoints\.(\w+)", found)
                self.assertCountEqual(names, lost.split())


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
        urlpatterns
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
        refused = json.loads(readme_block("json", "contact"))
        errors = json.loads(readme_block("json", "since"))
        page = json.loads(readme_block("json", "total_pages"))
        replies = self.run_calls(
            """
            post = Post.objects.get(pk=1)
            post.title = "Hello"
            post.save()
            comments = Comment.objects
            comments.create(post=post, author=ann, text="First!", approved=True)
            sent = {"post": 1, "title": "Bye", "category": 1}
            print(json.dumps([
                reply("blog/post/1/get"),
                reply("blog/publish_all", client=other),
                reply("blog/count_posts", {"since": "today", "days": 0})["errors"],
                reply("blog/count_posts", {"since": str(datetime.date.today())}),
                reply("blog/post/list", {
                    "search": "hello", "order_by": "-comment_count",
                    "items_per_page": 1,
                }),
                reply("blog/comment/1/update", {"txet": "Second!"})["errors"],
                reply("blog/post/9/delete", client=other)["data"],
                reply("blog/post/99/get")["data"]["message"],
                reply("blog/count_drafts")["data"],
                reply("blog/postform", sent)["success"],
                reply("blog/postform", {"post": 2})["errors"]["__all__"],
                reply("blog/hello", client=visitor)["data"],
            ]))
            """
        )
        replies[4]["data"] = ["..." for _record in replies[4]["data"]]
        no_choice = "Select a valid choice. That choice is not one of the available"
        unknown = {"txet": ['Unknown key. Did you mean "text"?']}
        self.assertIn(json.dumps(unknown), README.read_text("utf-8"))
        for reply, expected in zip(
            replies,
            [
                shown, refused, errors, {"success": True, "data": {"count": 25}},
                page, unknown, {"pk": 9},
                'Post with id of "99" not found.', {"drafts": 0}, True,
                [f"{no_choice} choices."], {"hello": "world"},
            ],
            strict=True,
        ):  # fmt: skip
            with self.subTest(expected):
                self.assertEqual(self.read(json.dumps(reply)), expected)

    def test_a_key_that_is_not_written_is_named(self):
        reply = self.run_calls(
            """
            Comment.objects.create(post_id=1, author=ann, text="First!")
            sent = {"author": bob.pk, "text": "Second!"}
            print(json.dumps(reply("blog/comment/1/update", sent)))
            """
        )
        self.assertEqual(reply["ignored"], ["author"])
        self.assertIn('"ignored": ["author"]', README.read_text("utf-8"))

    def test_everybody_may_do_what_it_says(self):
        statuses = self.run_calls(
            """
            post = Post.objects.get(pk=1)
            draft = Post.objects.create(category=post.category, author=ann, title="a")
            Comment.objects.create(post=post, author=ann, text="First!")
            User.objects.filter(pk=bob.pk).update(is_staff=True)
            Photo.objects.create(owner=ann, file="a.txt")
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
                ["comment/1/update", 403, 403, 200],
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
        title = "document.querySelector('[name=title]').value"
        for button, value, expected in (
            ("#theirs", "theirs", "theirs"),
            ("#mine", "<i>1</i> mine", "<i>1</i> mine"),
        ):
            with self.subTest(button):
                self.open("edit/1/")
                self.wait_for("<i>1</i>", self.seen, title)
                other = 'ajax("blog/post/1/update", {title: "theirs"})'
                script = 'import("/ajax/client.js").then(({default: ajax}) => CALL)'
                script = script.replace("CALL", other)
                self.browser.execute_script(f"await {script}")
                self.enter("title", " mine")
                self.click("button")
                self.wait_for_output("Somebody else has changed this record.")
                self.assert_refused(409)
                self.click(button)
                self.wait_for(expected, lambda: self.stored()[0][0])
                self.wait_for(value, self.seen, title)
                if button == "#theirs":
                    self.click("form button")
                self.wait_for_output("Saved.")
                restore = other.replace("theirs", "<i>1</i>")
                self.browser.execute_script(f"await {script.replace(other, restore)}")

    def test_a_file_is_sent_with_its_progress_and_its_delete_undone(self):
        self.open("photos/")
        self.click("button")
        self.wait_for_output("", "This field cannot be blank.")
        self.assert_refused(400)
        sent = self.project.folder / "a.txt"
        sent.write_text("words" * 100_000)
        self.enter("file", str(sent))
        self.click("button")
        self.wait_for_output("Saved.")
        self.assertEqual(self.find("progress").get_property("value"), 1)
        kept = self.project.folder / "media/photos/a.txt"
        self.assertEqual(kept.read_text(), sent.read_text())
        for before, deleted, after in ("Delete", 1, "Undo"), ("Undo", 0, "Delete"):
            self.assertEqual(self.texts("li"), [f"/media/photos/a.txt {before}"])
            self.click("li button")
            self.wait_for([after], self.texts, "li button")
            self.assertEqual(self.stored("deleted", table="photo"), [(deleted,)])
        self.browser.set_network_conditions(offline=True, latency=0, throughput=0)
        self.click("button")
        self.wait_for_output("No answer.")
        self.browser.delete_network_conditions()
        self.assert_refused("net::ERR_INTERNET_DISCONNECTED")

    def test_a_list_is_searched_and_paged(self):
        self.open("posts/")
        shown = "li, span, button:enabled"
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
        self.open_block("blog/whoami", "const {username} =", "window.user =")
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
    SILENCED_SYSTEM_CHECKS=[f"ajax.W00{number}" for number in (1, 3, 4, 5, 6)],
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
    which the number chooses.
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
    runner = DiscoverRunner(shuffle=shuffle)
    return bool(runner.run_tests(labels or ["test_ajax"]))
