"""The tests of ajax.py, and an example of how it is used: read the first pages.

    python test_ajax.py                  run everything (or name classes, as for Django)
    python test_ajax.py bench            compare with hand-written views on this machine
    python test_ajax.py fuzz [20000]     make that many calls, other ones each time

AJAX_TEST_DATABASE=postgres://user@host:port/name runs them on PostgreSQL, and
mysql://user@host:port/name on MariaDB. There is one class for each part of what the
file promises; a model that only one test wants stands directly above it.
"""

import os
import sys
from urllib.parse import quote, unquote, urlencode, urlsplit

if __name__ == "__main__":
    # The tests are an app of the project below: they run under their real name.
    import test_ajax

    sys.exit(test_ajax.main(sys.argv[1:]))

import django
from django.apps import AppConfig, apps
from django.conf import settings

# --- Settings -------------------------------------------------------------------------


def database():
    """Return the database to test on: SQLite in memory, or AJAX_TEST_DATABASE."""
    url = urlsplit(os.environ.get("AJAX_TEST_DATABASE", ""))
    if not url.scheme:
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    engines = {"postgres": "postgresql", "mysql": "mysql"}
    return {
        "ENGINE": f"django.db.backends.{engines[url.scheme]}",
        "NAME": url.path[1:],
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": url.hostname or "",
        "PORT": url.port or "",
    }


class ShopConfig(AppConfig):
    name = "test_ajax"
    label = "shop"
    default_auto_field = "django.db.models.BigAutoField"


# This file is a whole app: its own models.py and endpoints.py.
__path__ = []
for _name in ("models", "endpoints"):
    sys.modules[f"{__name__}.{_name}"] = sys.modules[__name__]

settings.configure(
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["testserver"],
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
    DATABASES={"default": database()},
    # All tables are made from the models, in one go.
    MIGRATION_MODULES=dict.fromkeys(("auth", "contenttypes", "sessions", "taggit")),
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    STORAGES={"default": {"BACKEND": "django.core.files.storage.InMemoryStorage"}},
    MEDIA_URL="/media/",
    TIME_ZONE="UTC",
    # The endpoints below are made for the tests, some of which call `check_ajax`.
    SILENCED_SYSTEM_CHECKS=["ajax.W001", "ajax.W003", "ajax.W004"],
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"null": {"class": "logging.NullHandler"}},
        "loggers": {"django": {"handlers": ["null"], "propagate": False}},
    },
)
django.setup()

import atexit
import base64
import contextlib
import datetime
import functools
import gc
import gzip
import importlib.util
import inspect
import itertools
import json
import logging
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
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
from http.client import HTTPConnection
from pathlib import Path
from unittest import mock
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import hypothesis
import jsonschema
import openapi_spec_validator
from asgiref.sync import async_to_sync
from django import forms, http
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import SetPasswordForm
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core import checks, exceptions
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.files.storage import Storage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.core.signals import got_request_exception
from django.db import connection, connections, models, transaction
from django.db.models.signals import m2m_changed, post_init
from django.db.utils import DatabaseError, DataError, IntegrityError, OperationalError
from django.http import Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import get_object_or_404
from django.test import (
    AsyncClient,
    Client,
    LiveServerTestCase,
    TestCase,
    TransactionTestCase,
)
from django.test.runner import DiscoverRunner
from django.test.testcases import SimpleTestCase
from django.test.utils import CaptureQueriesContext, isolate_apps, override_settings
from django.urls import Resolver404, include, path, resolve, reverse
from django.utils import timezone, translation
from django.utils.autoreload import BaseReloader, autoreload_started
from django.utils.dateparse import parse_datetime, parse_duration
from django.utils.safestring import mark_safe
from django.utils.text import slugify
from django.utils.translation import gettext_lazy
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from hypothesis import strategies as st
from taggit import models as taggit
from taggit.managers import TaggableManager
from taggit.models import Tag, TaggedItem

import ajax

try:
    from selenium import webdriver
    from selenium.common.exceptions import NoAlertPresentException
    from selenium.webdriver.support.select import Select
    from selenium.webdriver.support.wait import WebDriverWait
except ImportError:
    webdriver = None

# --- Models: models.py ----------------------------------------------------------------


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


class Note(models.Model):
    """A record that only its owner may see; `Article`'s endpoint is open to all."""

    owner = models.ForeignKey(User, models.CASCADE)
    article = models.ForeignKey(Article, models.CASCADE, null=True, blank=True)
    text = models.TextField()


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


# --- Endpoints: endpoints.py ----------------------------------------------------------


def hello(request):
    """An ad-hoc endpoint: POST to /ajax/shop/hello.json."""
    return {"hello": request.POST.get("name", "world")}


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


@ajax.register(Note)
class NoteEndpoint(OpenEndpoint):
    def get_queryset(self, request):
        return super().get_queryset(request).filter(owner=request.user)

    def prepare_record(self, request, record, created):
        record.owner = request.user


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


# --- URLs: urls.py --------------------------------------------------------------------

urlpatterns = [
    path("ajax/", include("ajax")),
    path("plain/", ajax.json_response(lambda request: ask.answer(request))),
    path("token/", lambda request: HttpResponse(get_token(request))),
]


# --- How the tests call ---------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def describe_calls(_generation, _discovery, **changed):
    """Return by path the validator of what openapi.json says that a call answers."""
    with override_settings(DEBUG=True):
        spec = Client().get("/ajax/openapi.json").json()
    parts, found = {"components": spec["components"]}, {}
    for path_, item in spec["paths"].items():
        said = item["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        found[path_] = jsonschema.Draft202012Validator(said | parts)
    return found


def registered():
    """Return the contents of both registries."""
    registries = (ajax.endpoint, ajax.encoder)
    return tuple(tuple(registry._registry.items()) for registry in registries)


class AjaxTestCase(TestCase):
    """Two users, and some records; `post` calls an endpoint as the first of them."""

    @classmethod
    def setUpTestData(cls):
        cls.user = User.objects.create_user("ann", email="ann@example.com")
        cls.other = User.objects.create_user("bob", email="bob@example.com")
        cls.news = Category.objects.create(title="News")
        cls.local = Category.objects.create(title="Local", parent=cls.news)
        cls.article = Article.objects.create(
            category=cls.local, author=cls.user, title="First", price=Decimal("9.50"),
            created=parse_datetime("2024-05-06T07:08:09.123456Z"),
        )  # fmt: skip
        cls.article.tags.add("red", "green")
        cls.path = f"shop/article/{cls.article.pk}"

    def setUp(self):
        self.client = Client(raise_request_exception=False)
        self.client.force_login(self.user)

    def post(self, path, data=None, status=200, form=False, **extra):
        """POST JSON (or a form) to /ajax/{path}.json; return the reply, decoded."""
        if not form and "content_type" not in extra:
            extra["content_type"] = "application/json"
            data = json.dumps({} if data is None else data)
        response = self.client.post(f"/ajax/{path}.json", data or {}, **extra)
        self.assertEqual(response["Content-Type"], "application/json", response.content)
        reply = json.loads(response.content)
        self.assertEqual(response.status_code, status, reply)
        self.assertIs(reply["success"], status == 200)
        if status == 200:
            self.assert_described(path, reply)
        else:
            self.assertEqual(reply["data"]["code"], status)
        return reply

    def assert_described(self, path, reply):
        """Assert that what is answered is what openapi.json says."""
        given = resolve(f"/ajax/{path}.json").kwargs
        given = given | {"pk": "{pk}"} if "pk" in given else given
        keys = "app name model pk tags operation command".split()
        where = "/".join(given[key] for key in keys if key in given)
        said = describe_calls(registered(), ajax._discovery, tz=settings.USE_TZ)
        known = [said.get(f"/{where}{end}.json") for end in ("", "/create")]
        validator = known[0] or known[1]
        self.assertIsNotNone(validator, f"openapi.json does not know {where}.")
        error = jsonschema.exceptions.best_match(validator.iter_errors(reply))
        self.assertIsNone(error, f"{where}: {error}")

    def errors(self, path, data=None, **extra):
        """POST what is refused with 400; return the errors by field."""
        return self.post(path, data, status=400, **extra)["errors"]

    def send(self, path, body=b"", content_type="application/json", **extra):
        """POST bytes as they are; return status, decoded reply."""
        url = f"/ajax/{path}.json"
        response = self.client.generic("POST", url, body, content_type, **extra)
        self.assertEqual(response["Content-Type"], "application/json", response.content)
        return response.status_code, json.loads(response.content)

    def bear(self, path, body=b"{}", content_type="application/json", **extra):
        """POST what may be junk, and undo it; return the status, which is no 5xx."""
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
        """Have an ad-hoc endpoint return answer(request), or raise an exception."""
        if isinstance(answer, Exception):
            answer = mock.Mock(side_effect=answer)
        with mock.patch.object(ask, "answer", answer, create=True):
            return self.post("shop/ask", status=status, **extra)

    def serve(self, served, **attributes):
        """Serve a model or form with these class attributes until the test ends.

        They extend the class that serves it already; one that is not served is served.
        """
        kept = ajax.endpoint._registry.get(served)
        base = ajax.FormEndpoint if issubclass(served, forms.BaseForm) else None
        bases = (kept or base or ajax.ModelEndpoint,)
        attributes.setdefault("__module__", __name__)
        made = type(f"{served.__name__}Endpoint", bases, attributes)
        if kept:
            ajax.endpoint.unregister(served)
            self.addCleanup(ajax.endpoint.register, served, kept)
        ajax.endpoint.register(served, made)
        self.addCleanup(ajax.endpoint.unregister, served)
        return made

    def speak(self, model, encoder):
        """Let an encoder speak for a model until the test ends."""
        ajax.encoder.register(model, encoder)
        self.addCleanup(ajax.encoder.unregister, model)

    def receive(self, sent, receiver):
        """Connect a receiver to a signal until the test ends."""
        sent.connect(receiver, weak=False)
        self.addCleanup(sent.disconnect, receiver)

    @contextlib.contextmanager
    def apps(self, **sources):
        """Install apps that have just an endpoints.py, found afresh."""
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


def foreign_key(to, **options):
    options |= {"null": True, "blank": True, "related_name": "+"}
    return models.ForeignKey(to, models.CASCADE, **options)


def make_model(name, base=models.Model, **fields):
    return type(name, (base,), fields | {"__module__": __name__})


#: Whether "a" equals "A" in a column: so it is by the default collations of MariaDB.
IGNORES_CASE = connection.vendor == "mysql"


def yes(self, *arguments):
    return True


def no(self, *arguments):
    return False


# --- Urls -----------------------------------------------------------------------------


#: The messages of a 404 without a record: nothing is served, or not this operation.
NO_ENDPOINT, NO_OPERATION = "AJAX endpoint does not exist.", "Invalid method."


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
        self.speak(Country, ajax.IncludeEncoder(include=["name"]))
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
                    self.assertEqual(status, 413)
                    self.assertIn(setting, reply["data"]["message"])
            with self.settings(DATA_UPLOAD_MAX_NUMBER_FILES=3):
                reply = self.post(path_, files, form=True, status=413)
                setting = "DATA_UPLOAD_MAX_NUMBER_FILES"
                self.assertIn(setting, reply["data"]["message"])

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
        for code in (200, 302, 399, 600):
            with self.subTest(code), self.assertRaises(ValueError):
                ajax.AJAXError(code, "No")

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
        invalid = "^Could not save model.$"
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
        denied, unknown = "Access to endpoint is forbidden", "User is not authorized."
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
                    message = denied if hook.startswith("can") else unknown
                    self.assertEqual(reply["data"]["message"], message)
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
        for path, message in [
            (f"{self.path}/get", "User is not authorized."),
            ("shop/whoami", "User must be authenticated."),
            ("shop/pollform", "User is not authorized."),
        ]:
            reply = self.post(path, status=403)
            self.assertEqual(reply["data"]["message"], message)
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
        used = "The record conflicts with another one, is in use, or is gone."
        for answer, status, message in [
            (Http404("No such cup."), 404, "No such cup."),
            (Resolver404({"path": "secret", "tried": ["secret"]}), 404, mock.ANY),
            (Http404(), 404, "Not found."),
            (denied("Hands off."), 403, "Hands off."),
            (denied(), 403, "Access to endpoint is forbidden"),
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
            (many(), 413, "The request is too large."),
            (exceptions.SuspiciousFileOperation("secret"), 400, "Bad request."),
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
        for kind, text, state, status in [
            (IntegrityError, "INSERT secret", None, 409),
            (DataError, "SELECT secret", None, 400),
            (OperationalError, "index row of secret requires 20016", "54000", 400),
            (OperationalError, '(1366, "Incorrect string value: secret")', None, 400),
            (OperationalError, "(1267, 'Illegal mix, secret')", None, 400),
            (OperationalError, "(1292, 'Incorrect uuid value: secret')", None, 400),
            (OperationalError, "database is locked", None, 503),
            (OperationalError, "Lock wait timeout exceeded; secret", None, 503),
            (OperationalError, "canceling statement due to lock timeout", "55P03", 503),
            (OperationalError, "deadlock detected: secret", "40P01", 503),
            (OperationalError, "could not serialize access: secret", "40001", 503),
            (OperationalError, "no such table: secret", None, 500),
            (OperationalError, "the server is gone, secret", "57P01", 500),
            (DatabaseError, "database disk image is malformed: secret", None, 500),
        ]:
            with self.subTest(text), self.assertLogs("django.request") as logs:
                error, error.__cause__ = kind(text), Exception(text)
                error.__cause__.sqlstate = state
                reply = self.ask(error, status)
                self.assertNotIn("secret", json.dumps(reply))
                (record,) = logs.records
                self.assertIn(text, f"{record.getMessage()} {record.exc_info}")

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
            ajax.AJAXError(400, Mute()),
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
            (f"shop/supplier/{private.pk}/delete", {}, 409),
            (f"shop/supplier/{private.pk}/update", {"is_private": "?"}, 400),
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


class Commits(TransactionTestCase):
    """`Responses` that need a transaction which really ends."""

    post, ask, serve = AjaxTestCase.post, AjaxTestCase.ask, AjaxTestCase.serve
    apps, assert_described = AjaxTestCase.apps, AjaxTestCase.assert_described

    def setUp(self):
        AjaxTestCase.setUpTestData.__func__(self)
        AjaxTestCase.setUp(self)

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
        {"can_get": no},
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
    ),
    "with only the commands for tags": EndpointKind(
        {"operations": ["tags"]},
        {"add remove set clear similar": USERS},
        otherwise=NOT_FOUND,
    ),
    "without operations": EndpointKind(
        {"operations": []},
        {},
        otherwise=NOT_FOUND,
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
            self.speak(Article, endpoint.encoder)
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
            message = "Access to endpoint is forbidden"
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
        self.speak(Group, ajax.IncludeEncoder(include=["name"]))
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
        for served, name in (
            (User, "articles"),
            (Category, "article_set"),
            (Group, "user_set"),
            (Track, "livetrack"),
        ):
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
                | {"sortable_by"},
            ),
        ]:
            with self.subTest(endpoint_class.__name__):
                public = {n for n in dir(endpoint_class) if not n.startswith("_")}
                self.assertEqual(public, names)


# --- Writing --------------------------------------------------------------------------


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
                "get_queryset prepare_record can_update clean save_record relations "
                "signal get_queryset can_get",
            ),
            (
                f"{self.path}/tags/add",
                {"tags": "y"},
                "get_queryset can_get can_update relations",
            ),
            (f"{self.path}/delete", {}, "get_queryset can_delete delete_record signal"),
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
                self.speak(Wine, encoder)
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
    serve = AjaxTestCase.serve

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
        all_texts = ["", "null", *texts]
        scalars = [*all_texts, True, *numbers, mixed]
        objects = [[[]], {}, [{}], {"pk": {}}, {"pk": None}, {"pk": [1]}, {"": ""}]
        values = [*scalars, "9" * 5000, None, [None], *objects]
        # JSON's null, and the text for it where a text can be nothing else.
        null = [None, [None]]
        null_text = [*null, "null"]
        found_by_key = {
            "char": {"": [*all_texts, *numbers, mixed], "bare": null},
            "kind": {"": [*all_texts, *numbers, mixed], "bare": null},
            "text__icontains": {"": scalars, "one two": [""]},
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
            "boolean": {"two": ["", 0], "one": [True], "bare": null_text},
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
        values = ["", "x", "null", "%", "--5", "NaN", "9" * 20, "\U0001f600"]
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
        self.speak(Offer, Failing())
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

        self.speak(Category, Outer)
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
                self.speak(type(record), encoder)
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
        self.speak(Category, ajax.HTMLEscapeEncoder)
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
                self.speak(Category, wrong)
        self.assertFalse(ajax.encoder.is_registered(Category))
        self.speak(Category, ajax.ExcludeEncoder(exclude=["parent"]))
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
    def tags(self, record, command, tags=None, manager="tags", **extra):
        path = f"shop/{record._meta.model_name}/{record.pk}/{manager}/{command}"
        sent = None if tags is None else {"tags": tags}
        return self.post(path, sent, **extra)["data"]

    def names(self, *args, **extra):
        return " ".join(sorted(tag["name"] for tag in self.tags(*args, **extra)))

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
        self.assertEqual(self.tags(self.article, "add", []), shown)
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
                self.speak(Article, ajax.ExcludeEncoder(exclude=excluded))
                for command, tags in itertools.product(gone, ("blue", 7, [])):
                    self.tags(self.article, command, tags, status=404)
                reply = self.post(path, {"tags": "red"}, status=status)
                if status == 400:
                    self.assertEqual(reply["errors"], {"tags": ["Unknown key."]})
                if "similar" not in gone:
                    self.assertEqual(self.tags(self.article, "similar"), [])
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
            similar = self.tags(made[5], "similar")
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
        self.assertEqual(self.tags(track, "similar"), [])
        similar = self.tags(track, "similar", manager="moods")
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
                self.assertEqual(self.tags(first, "similar"), [shown])
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
            message = "Invalid request for record."
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


# --- Fuzz -----------------------------------------------------------------------------

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
        described = "/".join(arguments.values())
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


# --- Page -----------------------------------------------------------------------------


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
        AjaxTestCase.setUpTestData.__func__(self)
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

    def test_records_are_created_read_changed_listed_tagged_and_deleted(self):
        sent = {"category": self.news.pk, "title": "é", "price": "1.50"}
        made = self.call("shop/article", sent)
        self.assertEqual((made["title"], made["author"]["username"]), ("é", "ann"))
        path = f"shop/article/{made['pk']}"
        self.assertEqual(self.call(f"{path}/get"), made)
        made["title"] = "Second"
        self.assertEqual(self.call(f"{path}/update", made), made)
        tags = self.call(f"{path}/tags/add", {"tags": ["a b"]})
        self.assertEqual([each["name"] for each in tags], ["a b"])
        wanted = "{items_per_page: 1, current_page: 2, order_by: '-title'}"
        reply = self.run_in_page(f"return ajax.reply('shop/article/list', {wanted})")
        self.assertEqual((reply["total"], reply["total_pages"]), (2, 2))
        self.assertEqual([each["title"] for each in reply["data"]], ["First"])
        self.call(f"{path}/delete")
        self.assertFalse(Article.objects.filter(title="Second").exists())

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
            self.assert_error(error, 404, "AJAX endpoint does not exist.")
            self.assertEqual(error["hint"], hint)
        site, here = self.live_server_url, "/page/?a=b&c#d"
        self.open(query="?a=b&c#d")
        for login_url, start, following in (
            ("/in/", f"{site}/in/?next=", here),
            ("http://a.test/?b=c", "http://a.test/?b=c&next=", site + here),
        ):
            with self.settings(LOGIN_URL=login_url):
                error = self.call("shop/whoami")
            self.assert_error(error, 403, "User must be authenticated.")
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
        self.assertLessEqual(len(ajax._CLIENT.splitlines()), 320)
        self.assertLess(len(gzip.compress(ajax._CLIENT.encode())), 5 * 1024)

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
        self.run_in_page("form.elements.c.dispatchEvent(new Event('change'))")
        self.assertEqual(self.run_in_page(left)[:2], ["", 0])

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


class OpenAPI(AjaxTestCase):
    def described(self):
        with self.settings(DEBUG=True):
            return self.client.get("/ajax/openapi.json").json()

    def test_it_is_valid_openapi(self):
        openapi_spec_validator.validate(self.described())

    def test_typescript_has_types_of_it(self):
        bin_ = install_packages() / ".bin"
        with tempfile.TemporaryDirectory() as folder:
            spec = Path(folder, "openapi.json")
            spec.write_text(json.dumps(self.described()), "utf-8")
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
            Path(folder, "page.ts").write_text(script, "utf-8")
            for command in (
                [bin_ / "openapi-typescript", spec, "-o", Path(folder, "ajax.d.ts")],
                [bin_ / "tsc", "--noEmit", "--strict", Path(folder, "page.ts")],
            ):
                done = subprocess.run(command, capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

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
        self.speak(Category, Tell())
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

    apps, serve = AjaxTestCase.apps, AjaxTestCase.serve

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
        self.assertEqual(self.complaint(), "Could not save model.")
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
        done = subprocess.run(
            ["bash", "-c", f"{curl} -s"], env=os.environ | session,
            capture_output=True, timeout=30,
        )  # fmt: skip
        self.assertEqual(json.loads(done.stdout), reply)
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
        self.speak(ContentType, ajax.ExcludeEncoder(exclude=[]))
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

    def test_callables_that_are_not_exposed_are_named_by_w004(self):
        tools = "giving helper short anything decorated plain_object"
        sources = {"others": OTHERS, "tools": EXPOSED + NOT_EXPOSED, "listing": LISTED}
        with self.apps(**sources):
            for app, lost in [("others", "adding"), ("tools", tools), ("listing", "")]:
                found = " ".join(self.messages("ajax.W004", f"{app}.endpoints"))
                names = re.findall(r"endpoints\.(\w+)", found)
                self.assertCountEqual(names, lost.split())


# --- Projects of their own ------------------------------------------------------------

SOURCE = Path(ajax.__file__).read_text(encoding="utf-8")
README = Path(__file__).with_name("README.md")


class ProjectTestCase(SimpleTestCase):
    """Writes a project into a folder, and runs Python there: only that proves what a
    process imports first, and what it does with another project."""

    FILES = {
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
            user = User.objects.create_user("ann")
            client = Client(raise_request_exception=False)
            client.force_login(user)
            def post(path, data=None, client=client):
                response = client.post(f"/ajax/{path}.json", data)
                return [response.status_code, response.json()["data"]]
            def found():
                return [each.id for each in checks.run_checks()]
            """,
    }
    WITHOUT_TAGGIT = {"sitecustomize.py": "import sys; sys.modules['taggit'] = None"}
    TOKEN = {"Cookie": "csrftoken=" + "x" * 32, "X-CSRFToken": "x" * 32}

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.write(self.FILES)

    def write(self, files):
        for name, text in files.items():
            path_ = self.folder / name
            path_.parent.mkdir(parents=True, exist_ok=True)
            path_.write_text(textwrap.dedent(text), encoding="utf-8")

    def add(self, name, text):
        """Add lines to a file."""
        path_ = self.folder / name
        path_.parent.mkdir(parents=True, exist_ok=True)
        with open(path_, "a", encoding="utf-8") as file:
            file.write(f"\n{textwrap.dedent(text)}\n")

    def start(self, *arguments, **variables):
        """Start Python in the folder; end it, and what it started, with the test."""
        paths = [str(self.folder), str(Path(ajax.__file__).parent)]
        environment = {
            "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1", "DJANGO_SETTINGS_MODULE": "settings",
        }  # fmt: skip
        warnings = [f"-W{each}" for each in sys.warnoptions]
        # In the background a shell has the tests ignore SIGINT: this would inherit it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            [sys.executable, *warnings, *arguments], cwd=self.folder, text=True,
            env=os.environ | environment | variables, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        signal.signal(signal.SIGINT, before)

        def kill():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        watchdog = threading.Timer(20, kill)
        watchdog.start()
        for cleanup in (process.stdout.close, process.wait, kill, watchdog.cancel):
            self.addCleanup(cleanup)
        return process

    def add_readme(self, languages):
        """Add the README's blocks to the files that their first lines name."""
        for block in readme_blocks(languages):
            if named := re.match(r"(?:#|//|<!--) (\S+\.\w+)", block):
                self.add(named[1], block)

    def python(self, text, **variables):
        """Run Python code in the folder; return what it wrote, to either stream."""
        process = self.start("-c", textwrap.dedent(text), **variables)
        written = process.communicate()[0]
        self.assertEqual(process.returncode, 0, written)
        return written

    def assert_calls(self, start, *calls):
        """Run a script in the project; compare what each (call, expected) returns."""
        asked = ", ".join(call for call, _expected in calls)
        start = f"from shell import *\n{textwrap.dedent(start)}"
        written = self.python(f"{start}\nprint(json.dumps([{asked}]))")
        found = json.loads(written.splitlines()[-1])
        for (call, expected), got in zip(calls, found, strict=True):
            with self.subTest(call):
                self.assertEqual(got, expected)

    def free_port(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return str(free.getsockname()[1])

    def read_until(self, process, *words):
        """Read what a server writes until each word has come up; return the lines."""
        lines = []
        for line in process.stdout:
            lines.append(line)
            if all(any(word in line for line in lines) for word in words):
                return lines
        self.fail(f"No {words} in {''.join(dict.fromkeys(lines))}")

    def call(self, url, data=b"", **headers):
        """Send bytes to a server as its own page would; return status, text."""
        try:
            request = Request(url, data, headers | self.TOKEN)
            with urlopen(request, timeout=20) as response:
                return response.status, response.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()


class Workers(ProjectTestCase):
    """Processes on one SQLite file, of default settings and with a write-ahead log."""

    WORK = """
        from shell import *
        from blog.models import Post
        name, rounds = sys.argv[1], int(sys.argv[2])
        client.force_login(User.objects.get(username="ann"))
        for turn in range(rounds):
            new = {name: turn + 1}
            sent = {"name": name, "likers": [1, 2], "tags": f"{name}-{turn},all"}
            for path, data in (("post/1/update", new), ("post", sent)):
                path = f"/ajax/blog/{path}.json"
                response = client.post(path, data, "application/json")
                assert response.status_code == 200, response.content
            print(turn, flush=True)
        """

    def open_project(self, options):
        folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        shell = self.FILES["shell.py"].replace(
            'user = User.objects.create_user("ann")', ""
        )
        shell = shell.replace("client.force_login(user)", "")
        self.write(self.FILES | {"shell.py": shell})
        self.add("settings.py", f"""
            NAME = {str(self.folder / "db.sqlite3")!r}
            DATABASES["default"] |= {{"NAME": NAME, "OPTIONS": {options}}}
            INSTALLED_APPS += ["taggit"]
            """)  # fmt: skip
        self.write({
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
            "work.py": self.WORK,
        })  # fmt: skip
        self.python("""
            from shell import *
            from blog.models import Post
            [User.objects.create_user(name) for name in ("ann", "bob")]
            Post.objects.create(name="shared")
            """)

    def count(self):
        """Return the columns of the shared record, and what each other one holds."""
        return json.loads(
            self.python("""
            from shell import *
            from blog.models import Post
            whole = [
                [len(set(post.tags.names())), post.likers.count()]
                for post in Post.objects.exclude(pk=1)
            ]
            shared = Post.objects.get(pk=1)
            print(json.dumps([[shared.a, shared.b, shared.c], whole]))
            """)
        )

    def test_processes_lose_nothing_and_one_that_is_killed_leaves_whole_records(self):
        for options in ({}, {"init_command": "PRAGMA journal_mode=WAL"}):
            with self.subTest(options):
                self.open_project(options)
                rounds = 8
                works = [self.start("work.py", name, str(rounds)) for name in "ab"]
                killed = self.start("work.py", "c", "1000")
                self.read_until(killed, "3")
                killed.kill()
                for work in works:
                    written = work.communicate()[0]
                    self.assertEqual(work.returncode, 0, written)
                (a, b, c), whole = self.count()
                self.assertEqual((a, b), (rounds, rounds))
                self.assertGreaterEqual(c, 3)
                self.assertGreaterEqual(len(whole), 2 * rounds + 3)
                self.assertEqual([each for each in whole if each != [2, 2]], [])


# --- Imports --------------------------------------------------------------------------


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
        self.python(code, DJANGO_SETTINGS_MODULE="no_such_settings")
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
        self.add("blog/endpoints.py", endpoints)
        self.add("blog/endpoints.py", "def plain(request): 1")
        self.add("settings.py", "DEBUG = True")
        start = "import ajax\nfrom blog.models import Category"
        call = "ajax.DefaultEncoder().to_dict(Category(foo='f', bar='secret'))"
        self.assert_calls(start, (call, {"pk": None, "foo": "f", "baz": "z"}))
        call = "'/blog/plain.json' in client.get('/ajax/openapi.json').json()['paths']"
        self.assert_calls("", (call, True))

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
        self.write(self.WITHOUT_TAGGIT | {"blog/endpoints.py": self.EXAMPLES})
        made, refused = {"pk": 1, "foo": "a", "bar": "b"}, "User must be authenticated."
        self.assert_calls(
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
            ("found()", []),
        )

    def test_vendored_and_listed_it_checks_and_claims_nothing_of_its_folder(self):
        names = "models.py templates/x static/x management/commands/x.py".split()
        self.write({f"project/vendor/{name}": "1 / 0" for name in names})
        examples = self.EXAMPLES.replace("from ajax", "from project.vendor.ajax")
        examples = examples.replace("import ajax", "from project.vendor import ajax")
        urls = self.FILES["urls.py"].replace("ajax.urls", "project.vendor.ajax")
        self.write({"blog/endpoints.py": examples, "urls.py": urls})
        self.write({"project/vendor/ajax.py": SOURCE})
        self.add("settings.py", """
            INSTALLED_APPS.insert(0, "project.vendor.ajax.AjaxConfig")
            INSTALLED_APPS.insert(1, "django.contrib.staticfiles")
            STATIC_URL = "/static/"
            ENGINE = "django.template.backends.django.DjangoTemplates"
            TEMPLATES = [{"BACKEND": ENGINE, "APP_DIRS": True}]
            """)  # fmt: skip
        self.assert_calls(
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
            ("found()", ["ajax.E002"]),
            ("[app.name, app.models_module]", ["project.vendor.ajax", None]),
            ("[each for each in templates if 'vendor' in each]", []),
            ("finders.find('x')", None),
            ("['x' in management.get_commands(), 'ajax' in sys.modules]", [False] * 2),
        )

    def test_runserver_comes_back_once_a_broken_endpoints_module_is_mended(self):
        # The reloader looks often, and says when it has looked: from then on it sees
        # that a file changes.
        self.add("settings.py", """
            INSTALLED_APPS += ["ajax"]
            from django.utils.autoreload import StatReloader
            StatReloader.SLEEP_TIME = 0.05
            def tick(self, ticks=StatReloader.tick):
                for _ in ticks(self):
                    print("looked", flush=True)
                    yield
            StatReloader.tick = tick
            """)  # fmt: skip
        self.write({"blog/endpoints.py": "def hello(request)\n"})
        process = self.start("-m", "django", "runserver", port := self.free_port())
        self.read_until(process, "ajax.E001", "looked")
        self.write({"blog/endpoints.py": "def hello(request): return 'hi'\n"})
        self.read_until(process, "development server at")
        status, text = self.call(f"http://127.0.0.1:{port}/ajax/blog/hello.json")
        self.assertEqual((status, json.loads(text)["data"]), (200, "hi"))

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

    def demo(self, *arguments):
        """Start the demo; return its process, the page it names and its curl line."""
        port, temporary = self.free_port(), self.folder / "temporary"
        process = self.start(*arguments, port, TMPDIR=str(temporary))
        site = f"http://127.0.0.1:{port}/"
        lines = self.read_until(process, "curl ", site, "Quit")
        (curl,) = [line for line in lines if "curl " in line]
        page = next(line for line in lines if site in line and line != curl)
        self.assertEqual(len([*temporary.iterdir()]), 2)
        return process, re.search(rf"{site}\S*", page)[0], curl[curl.index("curl ") :]

    def curl(self, line):
        done = subprocess.run(line, shell=True, capture_output=True, timeout=30)
        return json.loads(done.stdout)["data"]

    def assert_ends(self, process, page):
        """Ctrl-C ends it, though browsers open connections ahead; nothing is left."""
        ahead = socket.create_connection(("127.0.0.1", urlsplit(page).port))
        self.addCleanup(ahead.close)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=30), 0)
        self.assertEqual(len([*(self.folder / "temporary").iterdir()]), 1)

    def test_the_file_serves_a_site_to_try(self):
        process, page, curl = self.demo(ajax.__file__)
        with self.subTest("The curl line shows a record with all kinds of relations."):
            data = self.curl(curl)
            self.assertEqual(data["author"]["username"], "demo")
            self.assertTrue(data["tags"])
            self.assertTrue(any(value == [1] for value in data.values()))
        with self.subTest("The page is the explorer, and shows the Python."):
            status, text = self.call(page, None)
            self.assertEqual(status, 200)
            self.assertIn("explorer.js", text)
            _status, text = self.call(f"{page}ajax/openapi.json", None)
            for line in ["class Post(models.Model):", "@ajax.register(Post)"]:
                self.assertIn(line, json.loads(text)["info"]["description"])
        url = re.search(r"http://\S+/post/1/get\.json", curl)[0]
        with self.subTest("The visitor is logged in, and may list and write."):
            for path_, sent in [
                ("whoami", b""), ("post/list", b""), ("category/list", b""),
                ("post", b"title=New&category=1"), ("post/1/tags/similar", b""),
            ]:  # fmt: skip
                status, text = self.call(url.replace("post/1/get", path_), sent)
                self.assertEqual(status, 200, text)
        with self.subTest("Many are answered at once."), ThreadPoolExecutor(8) as pool:
            sent = [f"title={number}".encode() for number in range(8)]
            replies = pool.map(self.call, [url.replace("/get", "/update")] * 8, sent)
            self.assertEqual([status for status, _text in replies], [200] * 8)
        with self.subTest("A name that somebody else lets point here gets nothing."):
            for each, sent in [(page, None), (url, b"")]:
                status, _text = self.call(each, sent, Host="evil.example")
                self.assertEqual(status, 400)
        self.assert_ends(process, page)

    def test_the_module_serves_it_and_does_without_taggit(self):
        self.write(self.WITHOUT_TAGGIT)
        process, page, curl = self.demo("-m", "ajax")
        self.assertNotIn("tags", self.curl(curl))
        self.assert_ends(process, page)


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
    ("demo/whoami", None), ("demo/later", {}), ("demo/guarded", {}), ("demo/quit", {}),
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
            limits = {"MEDIA_ROOT": folder, "DATA_UPLOAD_MAX_MEMORY_SIZE": 9000}
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
        """Start one of the servers on a new demo; return where it listens."""
        if name != "runserver" and importlib.util.find_spec(name) is None:
            skip_or_fail(f"Tests on {name} want it to be installed.")
        (self.folder / name).mkdir()
        port = self.free_port()
        command = self.COMMANDS[name].format(port).split()
        address = f"127.0.0.1:{port}"
        self.read_until(self.start(*command, SERVER=name), address)
        return address

    def do(self, server, first, second, headers=()):
        """Do one call of SESSION; return what is compared, nothing of it by chance."""
        method, where, body, headers = "POST", f"{first}.json", second, dict(headers)
        if first.isupper():
            method, where, body = first, second, None
        else:
            headers = {"Content-Type": "application/json"} | self.TOKEN | headers
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        body = body.encode() if isinstance(body, str) else body
        server.request(method, quote(f"/ajax/{where}", "/%"), body, headers)
        response = server.getresponse()
        text = re.sub(self.BY_CHANCE, "?", response.read().decode())
        return response.status, [response.headers[each] for each in self.COMPARED], text

    def test_a_session_gets_the_same_replies_from_each(self):
        expected = None
        for name in self.COMMANDS:
            with self.subTest(name):
                server = HTTPConnection(self.start_server(name), timeout=20)
                self.addCleanup(server.close)
                found = [self.do(server, *call) for call in SESSION]
                expected = expected or found
                for call, one, other in zip(SESSION, expected, found, strict=True):
                    self.assertEqual(other, one, call)
        statuses = {status for status, _headers, _text in expected}
        self.assertEqual(statuses, {200, 400, 403, 404, 405, 409, 413, 415, 429})

    def test_functions_that_wait_wait_at_once(self):
        url = f"http://{self.start_server('uvicorn')}/ajax/demo/rest.json"
        call = functools.partial(self.call, **{"Content-Type": "application/json"})
        with ThreadPoolExecutor(50) as pool:
            replies = [*pool.map(call, [url] * 50, [b"50"] * 50)]
        # Each says how many were inside with it at most.
        self.assertEqual({json.loads(text)["data"] for _status, text in replies}, {50})


# --- Readme ---------------------------------------------------------------------------


def readme_blocks(languages):
    """Return the README's blocks of code in any of them: "js|html"."""
    pattern = rf"^```(?:{languages})\n(.*?)^```$"
    return re.findall(pattern, README.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def readme_code(start):
    """Return the code that starts so, within a sentence."""
    return re.search(f"`({re.escape(start)}.*?)`", README.read_text("utf-8"))[1]


class Readme(ProjectTestCase):
    """The README's blocks of Python that name their file are a site, which runs."""

    def test_its_site_runs_and_answers_as_it_says(self):
        settings = "INSTALLED_APPS += ['taggit', 'ajax']; ROOT_URLCONF = 'mysite.urls'"
        self.add("settings.py", settings)
        urls = "from django.urls import path\nurlpatterns = []"
        self.write({"blog/models.py": "", "mysite/urls.py": urls})
        for block in readme_blocks("python"):
            compile(block, block, "exec")
        self.add_readme("python")
        said = [json.loads(each) for each in readme_blocks("json")]
        updated = next(each for each in said if "Hello again" in str(each))
        updated["data"].pop("created")
        refused = next(each for each in said if "contact" in each)
        hello = {"success": True, "data": {"hello": "Ann"}}
        self.assertIn(hello, said)
        self.assert_calls(
            """
            from blog.models import Category, Post
            news = Category.objects.create(title="News")
            Post.objects.create(category=news, author=user, title="Hello", body="World")
            def reply(path, data):
                path = f"/ajax/{path}.json"
                reply = client.post(path, data, "application/json").json()
                reply["data"].pop("created", None)
                return reply
            new = {"title": "Hello again", "tags": ["django", "news"]}
            """,
            ("reply('blog/hello', {'name': 'Ann'})", hello),
            ("reply('blog/publish_all', {})", refused),
            ("reply('blog/post/1/update', new)", updated),
            ("found()", []),
        )


class Recipes(ProjectTestCase):
    """The README's recipes, in a browser, on the site that its blocks make."""

    FILES = ProjectTestCase.FILES | {
        "settings.py": ProjectTestCase.FILES["settings.py"]
        + """
            DEBUG, ROOT_URLCONF = True, "pages"
            STATIC_URL, MEDIA_URL, MEDIA_ROOT = "/static/", "/media/", "media"
            DATABASES["default"]["NAME"] = "db.sqlite3"
            INSTALLED_APPS += ["django.contrib.staticfiles", "taggit", "ajax"]
            MIDDLEWARE.append("django.middleware.csrf.CsrfViewMiddleware")
            BACKEND = "django.template.backends.django.DjangoTemplates"
            LOADERS = ["django.template.loaders.app_directories.Loader"]  # uncached
            TEMPLATES = [{"BACKEND": BACKEND, "OPTIONS": {"loaders": LOADERS}}]
            PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
            """,
        "mysite/urls.py": """
            from django.urls import path
            urlpatterns = []
            """,
        "pages.py": f"""
            from django.contrib.auth.views import LoginView
            from django.urls import path
            from django.views.generic import TemplateView
            from blog.views import edit
            from mysite.urls import urlpatterns
            urlpatterns += [
                path("accounts/login/", LoginView.as_view()),
                {readme_code('path("edit/')},
            ]
            for name in "new", "upload", "posts", "page":
                view = TemplateView.as_view(template_name=f"blog/{{name}}.html")
                urlpatterns.append(path(name, view))
            """,
        "blog/models.py": f"""
            from django.db import models
            class Photo(models.Model): {readme_code("file = ")}
            """,
        "blog/endpoints.py": f"""
            import ajax
            {readme_code("from .models import Photo")}
            {readme_code("ajax.endpoint.register(Photo")}
            """,
        "blog/templates/registration/login.html": """
            <form method="post">{% csrf_token %}{{ form }}<button>Log in</button></form>
            """,
        "serve.py": """
            from shell import *
            from blog.models import Category, Post
            user.set_password("secret")
            user.save()
            client.force_login(user)
            bob = User.objects.create_user("bob")
            news = Category.objects.create(title="News")
            for number, author in enumerate([user] + [bob] * 24, 1):
                title = f"<i>{number}</i>"
                Post.objects.create(category=news, author=author, title=title)
            print("session", client.cookies["sessionid"].value)
            management.call_command("runserver", sys.argv[1], use_reloader=False)
            """,
    }
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
        self.add_readme("python|js|html")
        self.addCleanup(self.assert_refused)

    @functools.cached_property
    def site(self):
        """Serve the site to a browser in which ann is logged in; return its URL."""
        port = self.free_port()
        words = "session ", "Quit the server"
        text = "".join(self.read_until(self.start("serve.py", port), *words))
        value, url = re.search("session (.*)", text)[1], f"http://127.0.0.1:{port}/"
        cookie = {"name": "sessionid", "value": value, "url": url}
        self.browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
        self.browser.execute_cdp_cmd("Network.setCookie", cookie)
        return url

    def open(self, path):
        self.browser.get(self.site + path)

    def open_block(self, part, old, new, package=None):
        """Open a page of the README's one block with this part, slightly changed."""
        (block,) = [each for each in readme_blocks("js|html") if part in each]
        page = block.replace(old, new)
        if block in readme_blocks("js"):
            page = f'<script type="module">{page}</script>'
        if package:
            script = (install_packages() / package).read_text("utf-8")
            self.write({f"blog/static/{package}": script})
            page = f'<script src="/static/{package}"></script>{page}'
        self.write({"blog/templates/blog/page.html": page})
        self.open("page")

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def enter(self, name, text):
        self.find(f"[name={name}]").send_keys(text)

    def wait_for(self, expected, find, *args):
        """Wait until a function gives what is expected."""
        end = time.monotonic() + 9
        while (found := find(*args)) != expected and time.monotonic() < end:
            time.sleep(0.02)
        self.assertEqual(found, expected)

    def seen(self, script):
        return self.browser.execute_script(f"return {script}")

    def said(self, name):
        """Return what the page's output says, and what stands behind an input."""
        found = f"document.querySelector('[name={name}]')"
        error = f"document.getElementById({found}.getAttribute('aria-describedby'))"
        error += "?.textContent ?? ''"
        return self.seen(f"[document.querySelector('output').textContent, {error}]")

    def stored(self, columns="title", where="id = 1"):
        """Return what the table of posts holds."""
        query = f"SELECT {columns} FROM blog_post WHERE {where} ORDER BY id"
        with contextlib.closing(sqlite3.connect(self.folder / "db.sqlite3")) as found:
            return found.execute(query).fetchall()

    def test_the_first_calls_update_a_post_and_read_it(self):
        for operation in "update", "get":
            call = f'await ajax("blog/post/1/{operation}"'
            self.open_block(call, "const post", "window.post")
            self.wait_for("Hello again", self.seen, "window.post?.title")
            names = self.seen("post.tags.map(each => each.name)")
            self.assertEqual(names, ["django", "news"])
        self.assertEqual(self.stored(), [("Hello again",)])

    def test_a_form_shows_errors_at_its_inputs_and_saves_what_is_seen(self):
        for clicks in ["button"], ["[name=published]", "button"]:
            self.open("new")
            for each in clicks:
                self.find(each).click()
            self.wait_for(["", "This field cannot be blank."], self.said, "title")
            self.enter("title", "New")
            self.find("button").click()
            self.wait_for(["Saved.", ""], self.said, "title")
        found = self.stored("title, published", "id > 25")
        self.assertEqual(found, [("New", False), ("New", True)])
        self.assert_refused(400, 400)

    def test_a_model_form_edits_its_instance_and_nobody_elses(self):
        refusal = "Select a valid choice. That choice is not one of the available"
        for pk, said in (1, "Saved."), (2, f"{refusal} choices."):
            self.open("edit/1/")
            change = "document.querySelector('[name=post]').value = arguments[0]"
            self.browser.execute_script(change, pk)
            self.enter("title", " again")
            self.enter("tags", "django")
            self.find("[name=published]").click()
            self.find("button").click()
            self.wait_for([said, ""], self.said, "title")
        changed = self.stored("id, title", "title LIKE '% again' OR published")
        self.assertEqual(changed, [(1, "<i>1</i> again")])
        self.open("edit/1/")
        self.assertEqual(self.find("[name=tags]").get_property("value"), "django")
        self.assert_refused(400)
        self.open("edit/2/")
        self.assert_refused(404)

    def test_a_file_is_sent_while_its_progress_is_shown(self):
        self.open("upload")
        self.find("button").click()
        self.wait_for(["", "This field cannot be blank."], self.said, "file")
        self.assert_refused(400)
        sent, kept = (self.folder / name for name in ("a.txt", "media/photos/a.txt"))
        sent.write_text("words" * 100_000)
        self.enter("file", str(sent))
        self.find("button").click()
        self.wait_for(["/media/photos/a.txt", ""], self.said, "file")
        self.assertEqual(self.find("progress").get_property("value"), 1)
        self.assertEqual(kept.read_text(), sent.read_text())
        self.browser.set_network_conditions(offline=True, latency=0, throughput=0)
        self.find("button").click()
        self.wait_for(["No answer.", ""], self.said, "file")
        self.browser.delete_network_conditions()
        self.assert_refused("net::ERR_INTERNET_DISCONNECTED")

    def test_buttons_page_through_a_list(self):
        self.open("posts")
        shown = "[...document.querySelectorAll('li, span, button:enabled')]"
        shown += ".map(each => each.textContent)"
        titles = [f"<i>{number}</i>" for number in range(1, 26)]
        second = [*titles[10:20], "Back", "2 of 3", "Next"]
        third = [*titles[20:], "Back", "3 of 3"]
        self.wait_for([*titles[:10], "1 of 3", "Next"], self.seen, shown)
        for button, expected in ("next", second), ("next", third), ("back", second):
            self.find(f"#{button}").click()
            self.wait_for(expected, self.seen, shown)

    def test_a_login_leads_back_to_the_page_and_to_what_was_typed(self):
        self.open("new")
        self.enter("title", "Kept")
        self.browser.delete_cookie("sessionid")
        self.find("button").click()
        refusal = "User is not authorized. Log in, in a new tab"
        self.wait_for([refusal, ""], self.said, "title")
        self.find("output a").click()
        self.wait_for(2, lambda: len(self.browser.window_handles))
        first, second = self.browser.window_handles
        self.browser.switch_to.window(second)
        self.log_in_and_return("/new")
        self.browser.close()
        self.browser.switch_to.window(first)
        self.find("button").click()
        self.wait_for(["Saved.", ""], self.said, "title")
        self.assertEqual(self.stored("title, author_id", "id > 25"), [("Kept", 1)])
        self.browser.delete_cookie("sessionid")
        catch = f".catch(error => {{ {readme_code('location = ')} }});"
        self.open_block("post/1/get", ";\n", f"{catch} window.post = post;\n")
        self.log_in_and_return("/page")
        self.wait_for("<i>1</i>", self.seen, "window.post?.title")
        self.assert_refused(403, 403)

    def log_in_and_return(self, page):
        self.wait_for("/accounts/login/", self.seen, "location.pathname")
        self.enter("username", "ann")
        self.enter("password", "secret")
        self.find("button").click()
        self.wait_for(page, self.seen, "location.pathname")

    def test_fetch_and_jquery_call_with_the_token_of_a_template(self):
        refusal = ["Could not save model.", {"title": ["This field cannot be blank."]}]
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
                self.find("[hx-target]").click()
                newest = "document.querySelector('#newest > b')?.textContent"
                self.wait_for("<i>25</i>", self.seen, newest)
                self.find("[hx-vals]").click()
                self.wait_for([[package]], self.seen, "logged")
                self.assertEqual(self.stored(), [(package,)])

    def test_the_tests_of_endpoints_pass(self):
        written = self.start("-m", "django", "test", "blog").communicate()[0]
        self.assertRegex(written, r"Ran 2 tests in .*s\n\nOK")


# --- The benchmark --------------------------------------------------------------------


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


def main(arguments):
    """Run the benchmark, the fuzzer, tests by name, or all; return the exit status."""
    if arguments == ["bench"]:
        return bench()
    if arguments[:1] == ["fuzz"]:
        Fuzz.EXAMPLES, Fuzz.IS_SAME = int([*arguments, 2000][1]), False
        arguments = ["Fuzz"]
    names = [f"test_ajax.{name.removeprefix('test_ajax.')}" for name in arguments]
    shuffle = int(os.environ.get("AJAX_SHUFFLE", 0)) or False
    runner = DiscoverRunner(shuffle=shuffle)
    return bool(runner.run_tests(names or ["test_ajax"]))
