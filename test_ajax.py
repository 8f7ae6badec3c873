"""The tests of ajax.py, and an example of how it is used: read the first pages.

    python test_ajax.py                  run everything (or name classes, as for Django)
    python test_ajax.py bench            compare with hand-written views on this machine

AJAX_TEST_DATABASE=postgres://user@host:port/name runs them on PostgreSQL.
"""

import os
import sys
from urllib.parse import urlsplit

if __name__ == "__main__":
    # The tests are an app of the project below: they run under their real name.
    import test_ajax

    sys.exit(test_ajax.main(sys.argv[1:]))

import django
from django.apps import AppConfig
from django.conf import settings

# --- Settings -------------------------------------------------------------------------


def database():
    """Return the database to test on: SQLite in memory, or AJAX_TEST_DATABASE."""
    url = urlsplit(os.environ.get("AJAX_TEST_DATABASE", ""))
    if url.scheme != "postgres":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    return {
        "ENGINE": "django.db.backends.postgresql",
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
    STORAGES={
        "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
        "staticfiles": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    },
    MEDIA_URL="/media/",
    USE_TZ=True,
    TIME_ZONE="UTC",
    # The endpoints below are made for the tests, some of which call `check_ajax`.
    SILENCED_SYSTEM_CHECKS=["ajax.W001", "ajax.W003"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"null": {"class": "logging.NullHandler"}},
        "loggers": {"django": {"handlers": ["null"], "propagate": False}},
    },
)
django.setup()

import contextlib
import datetime
import functools
import gc
import importlib
import importlib.util
import inspect
import json
import pathlib
import platform
import random
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
import tracemalloc
import uuid
from decimal import Decimal
from pathlib import Path
from unittest import mock
from urllib.parse import quote, urlencode
from urllib.request import urlopen

from asgiref.sync import async_to_sync
from django import forms
from django.contrib.auth import decorators as auth_decorators
from django.contrib.auth import login
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core import checks, exceptions
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.files.base import ContentFile
from django.core.files.storage import Storage
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.signals import got_request_exception
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    OperationalError,
    connection,
    connections,
    models,
    transaction,
)
from django.db.models.signals import post_init
from django.http import (
    FileResponse,
    Http404,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.middleware.csrf import get_token
from django.test import (
    AsyncClient,
    Client,
    RequestFactory,
    SimpleTestCase,
    TestCase,
    TransactionTestCase,
    modify_settings,
    override_settings,
)
from django.test.runner import DiscoverRunner
from django.test.utils import CaptureQueriesContext, isolate_apps
from django.urls import Resolver404, include, path, reverse
from django.utils import timezone, translation
from django.utils.dateparse import parse_datetime
from django.utils.safestring import mark_safe
from django.utils.text import slugify
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from taggit.managers import TaggableManager
from taggit.models import (
    CommonGenericTaggedItemBase,
    GenericUUIDTaggedItemBase,
    Tag,
    TaggedItem,
    TaggedItemBase,
)

import ajax

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


# --- Endpoints: endpoints.py ----------------------------------------------------------


def hello(request):
    """An ad-hoc endpoint: POST to /ajax/shop/hello.json."""
    return {"hello": request.POST.get("name", "world")}


@ajax.login_required
def whoami(request):
    return {"username": request.user.username}


@ajax.register(Category)
class CategoryEndpoint(ajax.ModelEndpoint):
    def can_list(self, user):
        return True


@ajax.register(Article)
class ArticleEndpoint(ajax.ModelEndpoint):
    exclude = ["secret"]
    readonly_fields = ["author"]
    sortable_by = ["title", "created", "category__title"]
    search_fields = ["title", "category__title"]
    list_filter = ["category", "published", "created__gte", "readers"]

    def can_list(self, user):
        return True

    def can_update(self, user, record, modified):
        return user == record.author

    can_delete = can_create = ajax.ModelEndpoint.can_delete

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
class NoteEndpoint(ajax.ModelEndpoint):
    def get_queryset(self, request):
        return super().get_queryset(request).filter(owner=request.user)

    def can_list(self, user):
        return True

    def prepare_record(self, request, record, created):
        record.owner = request.user


@ajax.register(Country)
class CountryEndpoint(ajax.ModelEndpoint):
    fields = ["code", "name"]


class ContactForm(forms.Form):
    email = forms.EmailField()
    text = forms.CharField(max_length=100)


@ajax.register(ContactForm)
class ContactEndpoint(ajax.FormEndpoint):
    """A form: POST to /ajax/shop/contactform.json."""

    def authenticate(self, request, application, method):
        return True


# --- URLs: urls.py --------------------------------------------------------------------

urlpatterns = [path("ajax/", include("ajax"))]


# --- How the tests call ---------------------------------------------------------------


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
        if status != 200:
            self.assertEqual(reply["data"]["code"], status)
        return reply

    def errors(self, path, data=None, **extra):
        """POST what is refused with 400; return the errors by field."""
        return self.post(path, data, status=400, **extra)["errors"]


# --- Models and endpoints for URLs, bodies, replies, exposure and CSRF ----------------


class Desk(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    label = models.CharField(max_length=50, unique=True)
    height = models.IntegerField(default=70)


class Drawer(models.Model):
    desk = models.ForeignKey(Desk, models.PROTECT)


class DeskBell(models.Model):
    desk = models.ForeignKey(Desk, models.RESTRICT)


@ajax.register(Desk)
class DeskEndpoint(ajax.ModelEndpoint):
    fields = ["label", "height"]

    def authenticate(self, request, application, method):
        return request.user.username == "ann"

    def can_update(self, user, record):
        return record.label != "bolted down"

    def can_list(self, user):
        return True

    def polish(self, request):
        return f"{self.record.label} shines"


def desk_ask(request):
    """Return, or raise, what the tests below want: see `DeskTestCase.ask`."""
    return desk_ask.answer(request)


async def desk_later(request):
    return {"user": request.user.username, "desks": await Desk.objects.acount()}


@ajax.login_required
async def desk_mine(request):
    return request.user.username


@auth_decorators.login_required
def desk_redirecting(request):
    return "in"


@auth_decorators.permission_required("shop.add_desk", raise_exception=True)
def desk_permitted(request):
    return "permitted"


@auth_decorators.login_not_required
def desk_public(request):
    return "public"


@csrf_exempt
def desk_exempt(request):
    return "exempt"


@never_cache
@ajax.json_response
def desk_fresh(request):
    return "fresh"


def desk_sign_in(request):
    login(request, User.objects.get(username="bob"))
    return request.user.username


class DeskLamp(ajax.BaseEndpoint):
    def __call__(self, request):
        desks = Desk.objects.order_by("label")
        return [self._encode_record(desks[0]), self._encode_data(desks)]


class DeskDoor(ajax.BaseEndpoint):
    @csrf_exempt
    @auth_decorators.login_not_required
    def __call__(self, request):
        return "open"


desk_lamp = DeskLamp()
desk_door = DeskDoor()


def _desk_page(request):
    return HttpResponse(get_token(request))


urlpatterns += [
    path("desk/page/", _desk_page),
    path("desk/plain/", ajax.json_response(lambda request: desk_ask.answer(request))),
]


class DeskTestCase(AjaxTestCase):
    """With a desk; `ask` for an ad-hoc endpoint's answers, `send` for odd bodies."""

    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.desk = Desk.objects.create(label="oak")

    def ask(self, answer, status=200, **extra):
        """Have an ad-hoc endpoint return answer(request), or raise an exception."""
        if isinstance(answer, Exception):
            answer = mock.Mock(side_effect=answer)
        with mock.patch.object(desk_ask, "answer", answer, create=True):
            return self.post("shop/desk_ask", status=status, **extra)

    def send(self, path, body=b"", content_type="application/json", **extra):
        """POST bytes as they are; return status, decoded reply."""
        response = self.client.generic(
            "POST", f"/ajax/{path}.json", body, content_type, **extra
        )
        self.assertEqual(response["Content-Type"], "application/json", response.content)
        return response.status_code, json.loads(response.content)

    @contextlib.contextmanager
    def app(self, **sources):
        """Install apps that have just an endpoints.py, found afresh."""
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for name, source in sources.items():
                (folder / name).mkdir()
                (folder / name / "__init__.py").touch()
                (folder / name / "endpoints.py").write_text(source)
            stack.enter_context(
                mock.patch.object(sys, "path", [*sys.path, str(folder)])
            )
            stack.enter_context(mock.patch.dict(sys.modules))
            stack.enter_context(mock.patch.object(sys, "dont_write_bytecode", True))
            importlib.invalidate_caches()
            fresh = type(ajax._discovery)()
            stack.enter_context(mock.patch.object(ajax, "_discovery", fresh))
            apps = {"INSTALLED_APPS": {"append": list(sources)}}
            stack.enter_context(modify_settings(**apps))
            yield


class UrlTests(DeskTestCase):
    def test_every_pattern_has_a_name(self):
        for name, arguments, expected in [
            ("endpoint", ["shop", "hello"], "shop/hello.json"),
            ("model", ["shop", "desk", "list"], "shop/desk/list.json"),
            ("record", ["shop", "desk", 1, "get"], "shop/desk/1/get.json"),
            ("tags", ["a", "b", 1, "tags", "add"], "a/b/1/tags/add.json"),
        ]:
            with self.subTest(name):
                found = reverse(f"ajax:{name}", args=arguments)
                self.assertEqual(found, f"/ajax/{expected}")

    def test_patterns_take_the_documented_keywords(self):
        words = {"app": "a", "model": "b", "pk": 1, "tags": "t", "command": "add"}
        self.assertEqual(reverse("ajax:tags", kwargs=words), "/ajax/a/b/1/t/add.json")
        words = {"app": "a", "model": "b", "pk": 1, "operation": "get"}
        self.assertEqual(reverse("ajax:record", kwargs=words), "/ajax/a/b/1/get.json")
        words = {"app": "a", "name": "b"}
        self.assertEqual(reverse("ajax:endpoint", kwargs=words), "/ajax/a/b.json")

    def test_every_row_of_the_table_answers(self):
        article = f"shop/article/{self.article.pk}"
        for path_, data in [
            ("shop/hello", {}),
            ("shop/contactform", {"email": "a@example.com", "text": "Hi"}),
            ("shop/category", {"title": "New"}),
            ("shop/category/create", {"title": "New"}),
            ("shop/article/list", {}),
            ("shop/article/count", {}),
            (f"shop/category/{self.news.pk}/get", {}),
            (f"shop/category/{self.news.pk}/update", {"title": "Old"}),
            (f"{article}/publish", {}),
            (f"{article}/tags/add", {"tags": "blue"}),
            (f"{article}/tags/remove", {"tags": ["blue"]}),
            (f"{article}/tags/set", {"tags": ["blue"]}),
            (f"{article}/tags/similar", {}),
            (f"{article}/tags/clear", {}),
            (f"shop/desk/{self.desk.pk}/polish", {}),
            (f"shop/desk/{self.desk.pk}/delete", {}),
        ]:
            with self.subTest(path_):
                self.post(path_, data)

    def test_only_post_is_served_whatever_the_path(self):
        for method in ["get", "head", "put", "patch", "delete", "options"]:
            for path_ in ["shop/hello", "no/such/thing", "no/such/1/tags/thing"]:
                with self.subTest(method=method, path=path_):
                    response = getattr(self.client, method)(f"/ajax/{path_}.json")
                    self.assertEqual(response.status_code, 405)
                    self.assertEqual(response["Allow"], "POST")
                    self.assertEqual(response["Content-Type"], "application/json")
        reply = self.client.get("/ajax/shop/hello.json").json()
        self.assertIn("POST", reply["data"]["message"])

    def test_what_is_not_there_is_a_json_404(self):
        article = f"shop/article/{self.article.pk}"
        for path_ in [
            "nothing",
            "nowhere/hello",
            "SHOP/hello",
            "shop/nothing",
            "shop/nothing/list",
            "shop/nothing/1/get",
            "shop/article/nothing",
            f"{article}/nothing",
            f"{article}/list",
            f"{article}/tags/nothing",
            f"{article}/tags/__init__",
            f"{article}/title/add",
            f"{article}/nothing/add",
            f"{article}/tags",
            f"shop/desk/{self.desk.pk}/tags/add",
            "ajax/dispatch",
            "ajax/json_response",
            "shop/models",
        ]:
            with self.subTest(path_):
                self.assertTrue(self.post(path_, status=404)["data"]["message"])

    def test_paths_match_whole_segments(self):
        for path_ in [
            "x/shop/hello", "xshop/hello", "shop/xhello", "shop/hellox", "shop/hello/x",
            "shop/hello.json", "/shop/hello", "shop//hello",
            "shop/article/list/x/y/z/0",
            f"shop/category/{self.news.pk}//get", "shop/hello%0a", "shop/ hello",
        ]:  # fmt: skip
            with self.subTest(path_):
                self.post(path_, status=404)
        for path_ in [
            "hello",
            "hello.json/",
            "hello.jsonx",
            "hello.json%0A",
            "hello.JSON",
        ]:
            with self.subTest(path_):
                response = self.client.post(f"/ajax/shop/{path_}")
                self.assertEqual(response.status_code, 404)
                self.assertNotIn("json", response["Content-Type"])

    @override_settings(ROOT_URLCONF=(path("", include("ajax")),))
    def test_mounted_at_the_root_it_swallows_only_json(self):
        for path_, status, is_json in [
            ("/shop/hello.json", 200, True),
            ("/nothing.json", 404, True),
            ("/static/site.css", 404, False),
            ("/shop/hello", 404, False),
        ]:
            with self.subTest(path_):
                response = self.client.post(path_)
                self.assertEqual(response.status_code, status)
                self.assertIs(response["Content-Type"] == "application/json", is_json)

    def test_a_pk_is_whatever_the_models_key_parses(self):
        self.post("shop/country", {"code": "de", "name": "Germany"})
        self.assertEqual(self.post("shop/country/de/get")["data"]["pk"], "de")
        for text in [str(self.desk.pk), self.desk.pk.hex, str(self.desk.pk).upper()]:
            found = self.post(f"shop/desk/{text}/get")["data"]
            self.assertEqual(found["pk"], str(self.desk.pk))

    def test_a_pk_that_does_not_parse_is_a_record_that_does_not_exist(self):
        for model, pk in [
            ("category", "x"), ("category", "1.5"), ("category", "-1"),
            ("category", "0x1"),
            ("category", "9" * 19), ("category", "9" * 9000), ("category", "None"),
            ("desk", "1"), ("desk", "x"), ("desk", "%00"), ("desk", uuid.uuid4()),
            ("country", "%00"), ("country", "zz"), ("country", "z" * 500),
            ("category", "%00"), ("category", "%ED%A0%80"), ("country", "%FF"),
        ]:  # fmt: skip
            for operation in ["get", "update", "delete"]:
                with self.subTest(model=model, pk=pk, operation=operation):
                    reply = self.post(f"shop/{model}/{pk}/{operation}", status=404)
                    message = reply["data"]["message"]
                    self.assertRegex(
                        message, f'(?is)^{model} with id of ".*" not found.$'
                    )

    def test_the_message_of_a_missing_record_names_it(self):
        reply = self.post("shop/category/999999/get", status=404)
        message = 'Category with id of "999999" not found.'
        self.assertEqual(reply["data"], {"code": 404, "message": message})

    def test_a_model_is_found_under_its_own_app_and_its_endpoints(self):
        @ajax.register(Group)
        class GroupEndpoint(ajax.ModelEndpoint):
            def can_list(self, user):
                return True

        self.addCleanup(ajax.endpoint.unregister, Group)
        self.assertEqual(self.post("auth/group/list")["data"], [])
        self.assertEqual(self.post("shop/group/list")["data"], [])
        self.post("taggit/group/list", status=404)

    @isolate_apps("taggit")
    def test_two_models_on_one_path_are_refused_by_name(self):
        class Desk(models.Model):
            class Meta:
                app_label = "taggit"

        with self.assertRaises(ajax.AlreadyRegistered) as caught:
            ajax.endpoint.register(Desk, DeskEndpoint)
        self.assertIn("taggit.Desk", str(caught.exception))
        self.assertIn("shop.Desk", str(caught.exception))
        self.assertFalse(ajax.endpoint.is_registered(Desk))

    @isolate_apps("test_ajax")
    @override_settings(DESK_MODEL="auth.User")
    def test_models_without_rows_or_single_keys_are_not_served(self):
        class Abstract(models.Model):
            class Meta:
                abstract = True

        class Paired(models.Model):
            pk = models.CompositePrimaryKey("left", "right")
            left = models.IntegerField()
            right = models.IntegerField()

        class Swapped(models.Model):
            class Meta:
                swappable = "DESK_MODEL"

        for model in [Abstract, Paired]:
            with (
                self.subTest(model),
                self.assertRaises(exceptions.ImproperlyConfigured),
            ):
                ajax.endpoint.register(model)
        ajax.endpoint.register(Swapped)
        self.assertFalse(ajax.endpoint.is_registered(Swapped))


class EndpointsModuleTests(DeskTestCase):
    def test_a_failing_endpoints_module_is_a_logged_500_and_leaves_no_traces(self):
        source = """if True:
            import ajax
            from django.contrib.auth.models import Group
            ajax.endpoint.register(Group)
            ajax.encoder.register(Group, ajax.ExcludeEncoder(exclude=["name"]))
            def fine(request): pass
            raise KeyError("broken on purpose")"""
        group = Group.objects.create(name="staff")
        with self.app(deskbroken=source):
            for path_ in ["shop/hello", "shop/category/list", "deskbroken/fine", "no"]:
                with self.subTest(path_), self.assertLogs("django.request") as logs:
                    self.post(path_, status=500)
                self.assertIn("broken on purpose", "".join(logs.output))
                self.assertEqual(len(logs.output), 1)
            self.assertFalse(ajax.endpoint.is_registered(Group))
            self.assertEqual(self.client.get("/ajax/shop/hello.json").status_code, 405)
            found = [message.id for message in ajax.check_ajax()]
            self.assertEqual(found.count("ajax.E001"), 1)
        self.post("shop/hello")
        self.assertEqual(ajax.encoder.encode(group)["name"], "staff")

    def test_an_endpoints_module_without_errors_is_imported_once(self):
        source = """if True:
            import builtins
            builtins.desk_imports = getattr(builtins, "desk_imports", 0) + 1
            def imports(request): return desk_imports"""
        with self.app(deskonce=source):
            self.assertEqual(self.post("deskonce/imports")["data"], 1)
            self.assertEqual(self.post("deskonce/imports")["data"], 1)

    def test_requests_wait_while_endpoints_are_imported(self):
        source = """if True:
            import ajax, threading
            thread = threading.Thread(target=ajax._discovery.run)
            thread.start()
            thread.join(0.05)
            did_wait = thread.is_alive()
            def waited(request):
                thread.join()
                return did_wait"""
        with self.app(deskwaits=source):
            self.assertIs(self.post("deskwaits/waited")["data"], True)


class ExposureTests(DeskTestCase):
    def names(self, source, others=""):
        """Return which of the names that a module holds can be called."""
        with self.app(deskother=others, deskapp=source):
            self.post("shop/hello")
            names = [*vars(sys.modules["deskapp.endpoints"]), "missing"]
            found = set()
            for name in names:
                status = self.send(f"deskapp/{name}", b"{}")[0]
                self.assertIn(status, (200, 404), name)
                found |= {name} if status == 200 else set()
        return found

    def test_functions_of_a_request_and_endpoint_objects_defined_here_are_exposed(self):
        others = """if True:
            import ajax
            def imported(request): pass
            class Base(ajax.BaseEndpoint):
                def __call__(self, request): return "base"
            foreign = Base()"""
        source = """if True:
            import ajax, functools, json
            from functools import partial, wraps
            from ajax import *
            from ajax import dispatch, json_response as renamed
            from django.shortcuts import render, redirect
            from django.views import View
            from django.views.decorators.cache import never_cache
            from deskother.endpoints import imported, imported as other, foreign, Base
            def plain(request): return 1
            async def later(request): return 1
            @ajax.login_required
            def guarded(request): return 1
            @ajax.login_required
            async def guarded_later(request): return 1
            @never_cache
            @ajax.json_response
            def fresh(request): return 1
            def adding(view):
                @wraps(view)
                def added(request): return view(request, 1)
                return added
            @adding
            def more(request, number): return number
            def optional(request, number=1, *rest, **options): return number
            def helper(text): pass
            def second(user, request): pass
            def nothing(): pass
            def _private(request): pass
            partial_view = partial(plain)
            wrapped_import = ajax.login_required(imported)
            class Mine(Base): pass
            class Klass:
                def __init__(self, request): pass
                def __call__(self, request): pass
            class Page(View): pass
            other_object = Klass(None)
            mine = Mine()
            made = Base()
            guarded_object = ajax.login_required(Base())
            class Empty(Mine):
                def __len__(self): return 0
            empty = Empty()
            _hidden = Mine()
            constant = {"a": 1}
            text = "text" """
        expected = {"plain", "later", "guarded", "guarded_later", "fresh", "more"}
        expected |= {"optional", "mine", "made", "guarded_object", "empty"}
        self.assertEqual(self.names(source, others), expected)

    def test_what_all_lists_and_nothing_else_is_exposed(self):
        source = """if True:
            import ajax
            __all__ = ["listed", "Klass", "endpoint", "_private", "number"]
            number = 1
            def listed(request): return 1
            def unlisted(request): return 1
            def _private(request): return 1
            class Klass(ajax.BaseEndpoint):
                def __call__(self, request): return 1
            endpoint = Klass()
            other = Klass()"""
        self.assertEqual(self.names(source), {"listed", "endpoint"})
        self.assertEqual(self.names("__all__ = []\ndef f(request): return 1"), set())

    def test_a_function_comes_before_a_form_and_a_form_before_a_model(self):
        source = """if True:
            import ajax
            from django import forms
            from test_ajax import ContactForm
            from django.contrib.auth.models import Group
            class Country(forms.Form): pass
            class group(forms.Form): pass
            class PublicForm(ajax.FormEndpoint):
                def create(self, request): return "form"
            class GroupEndpoint(ajax.ModelEndpoint): pass
            ajax.endpoint.register(Group, GroupEndpoint)
            ajax.endpoint.register([Country, group], PublicForm)
            def country(request): return "function" """
        with self.app(deskfirst=source):
            self.post("shop/hello")
            module = sys.modules["deskfirst.endpoints"]
            for served in [Group, module.Country, module.group]:
                self.addCleanup(ajax.endpoint.unregister, served)
            self.assertEqual(self.post("deskfirst/country")["data"], "function")
            self.assertEqual(self.post("deskfirst/group")["data"], "form")
            created = self.post("deskfirst/group/create", {"name": "staff"})["data"]
            self.assertEqual(created["name"], "staff")

    def test_an_endpoint_object_encodes_records(self):
        Desk.objects.create(label="pine")
        first, every = self.post("shop/desk_lamp")["data"]
        self.assertEqual(first, {"pk": str(self.desk.pk), "label": "oak", "height": 70})
        self.assertEqual([desk["label"] for desk in every], ["oak", "pine"])

    def test_async_functions_run_with_their_user_loaded(self):
        data = self.post("shop/desk_later")["data"]
        self.assertEqual(data, {"user": "ann", "desks": 1})
        self.assertEqual(self.post("shop/desk_mine")["data"], "ann")

    def test_async_functions_run_below_an_event_loop(self):
        client = AsyncClient()
        client.force_login(self.user)
        response = async_to_sync(client.post)("/ajax/shop/desk_later.json")
        self.assertEqual(response.json()["data"]["user"], "ann")

    def test_login_required_answers_json_and_djangos_own_redirects(self):
        self.client.logout()
        for name in ["whoami", "desk_mine"]:
            reply = self.post(f"shop/{name}", status=403)
            self.assertEqual(reply["data"]["message"], "User must be authenticated.")
            self.assertEqual(reply["login_url"], "/accounts/login/")
        response = self.client.post("/ajax/shop/desk_redirecting.json")
        self.assertEqual(response.status_code, 302)
        self.assertTrue(response["Location"].startswith("/accounts/login/"))

    def test_an_undecorated_function_is_open_to_everyone(self):
        self.client.logout()
        data = {"name": "you"}
        reply = self.post("shop/hello", data, form=True)
        self.assertEqual(reply["data"], {"hello": "you"})

    def test_permission_required_is_a_json_403(self):
        self.post("shop/desk_permitted", status=403)
        User.objects.filter(pk=self.user.pk).update(is_superuser=True)
        self.assertEqual(self.post("shop/desk_permitted")["data"], "permitted")

    def test_never_cache_above_json_response_sets_its_header(self):
        response = self.client.post("/ajax/shop/desk_fresh.json")
        self.assertEqual(response.json()["data"], "fresh")
        self.assertIn("no-store", response["Cache-Control"])

    def test_login_required_middleware_is_obeyed_as_json(self):
        required = "django.contrib.auth.middleware.LoginRequiredMiddleware"
        with self.modify_settings(MIDDLEWARE={"append": required}):
            self.client = Client(raise_request_exception=False)
            for name in ["hello", "whoami", "desk_later", "desk_lamp", "desk_exempt"]:
                with self.subTest(name):
                    reply = self.post(f"shop/{name}", status=403)
                    message = reply["data"]["message"]
                    self.assertEqual(message, "User must be authenticated.")
                    self.assertEqual(reply["login_url"], "/accounts/login/")
            self.assertEqual(self.post("shop/desk_public")["data"], "public")
            self.assertEqual(self.post("shop/desk_door")["data"], "open")
            self.post("shop/contactform", status=400)
            self.post("shop/category/list", status=403)
            self.post("shop/nothing", status=404)
            self.post("nothing", status=404)
            self.assertEqual(self.client.get("/ajax/a/b.json").status_code, 405)
            self.client.force_login(self.user)
            self.post("shop/hello")


class RequestBodyTests(DeskTestCase):
    GOOD = b'{"label": "ash"}'

    def test_data_is_the_json_value_or_the_form(self):
        values = [None, True, 1, 1.5, "text", [], [1, {"a": None}], {}, {"a": [1]}]
        for value in values:
            with (
                self.subTest(value=value),
                mock.patch.object(
                    desk_ask, "answer", lambda request: [request.data], create=True
                ),
            ):
                found = self.send("shop/desk_ask", json.dumps(value))[1]["data"]
                self.assertEqual(found, [value])
                self.assertIs(type(found[0]), type(value))
        form = {"a": ["1", "2"]}
        with mock.patch.object(
            desk_ask, "answer", lambda r: [r.data is r.POST, dict(r.data)], create=True
        ):
            for extra in [{}, {"content_type": "application/x-www-form-urlencoded"}]:
                body = "a=1&a=2" if extra else form
                found = self.post("shop/desk_ask", body, form=True, **extra)
                self.assertEqual(found["data"], [True, form])
            self.assertEqual(self.send("shop/desk_ask", b"")[1]["data"], [True, {}])

    def test_an_ad_hoc_function_reads_any_body_and_files_itself(self):
        answer = functools.partial(mock.patch.object, desk_ask, "answer", create=True)
        for read in [lambda r: r.body.decode(), lambda r: r.read().decode()]:
            with answer(read):
                self.assertEqual(
                    self.send("shop/desk_ask", b"<a/>", "text/xml"),
                    (200, {"success": True, "data": "<a/>"}),
                )
        with answer(lambda request: request.FILES["file"].read().decode()):
            data = {"file": SimpleUploadedFile("a.txt", b"inside")}
            self.assertEqual(
                self.post("shop/desk_ask", data, form=True)["data"], "inside"
            )

    def test_content_types_of_models_and_forms(self):
        multipart = (
            b'--x\r\nContent-Disposition: form-data; name="label"\r\n\r\nash\r\n--x--'
        )
        for content_type, body, status in [
            ("application/json", self.GOOD, 200),
            ("Application/JSON; charset=utf-8", self.GOOD, 200),
            ("application/x-www-form-urlencoded", b"label=ash", 200),
            ("multipart/form-data; boundary=x", multipart, 200),
            ("text/plain", self.GOOD, 415),
            ("application/xml", b"<a/>", 415),
            ("application/vnd.api+json", self.GOOD, 415),
            ("application/jsonx", self.GOOD, 415),
            ("", self.GOOD, 415),
            ("nonsense", self.GOOD, 415),
        ]:
            with self.subTest(content_type):
                found, reply = self.send("shop/desk", body, content_type)
                self.assertEqual(found, status, reply)
                if status == 200:
                    Desk.objects.get(label="ash").delete()
                else:
                    found, reply = self.send("shop/contactform", body, content_type)
                    self.assertEqual(found, 415)
        path_ = f"shop/desk/{self.desk.pk}/get"
        for content_type in [
            "text/plain",
            "",
            "application/json",
            "multipart/form-data",
        ]:
            with self.subTest(content_type, body="none"):
                body = b"" if "multipart" not in content_type else b"--x--"
                content_type += "; boundary=x" if "multipart" in content_type else ""
                self.assertEqual(self.send(path_, body, content_type)[0], 200)

    def test_login_is_asked_before_the_content_type(self):
        self.client.logout()
        self.assertEqual(self.send("shop/desk", b"x", "text/plain")[0], 403)

    def test_bad_json_is_a_400_that_says_why_before_any_endpoint_is_called(self):
        deep = b'{"a":' * 64 + b"1" + b"}" * 64
        called = mock.Mock(return_value=1)
        for body in [
            b"{", b"[1,]", b"'a'", b"{a: 1}", b" ", b"nul", b'{"a": 1} x', b'{"a"}',
            b"\xff",
            b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b"NaN", b"[1e999]",
            b'{"a": 1, "a": 1}', b'[{"b": {"a": 1, "\\u0061": 2}}]', b"\xef\xbb\xbf{}",
            b"[" + deep + b"]", b"[" * 65 + b"]" * 65, b"[" * 100_000,
            b'{"a":' * 100_000, b"1" * 5000, b'{"a": -' + b"1" * 5000 + b"}",
            b'{"a": "\n"}', '{"a": 1}'.encode("utf-16"), b'"\xed\xa0\x80"',
        ]:  # fmt: skip
            for path_ in ["shop/desk_ask", "shop/desk", "shop/contactform"]:
                with (
                    self.subTest(body[:30], path=path_),
                    mock.patch.object(desk_ask, "answer", called, create=True),
                ):
                    status, reply = self.send(path_, body)
                    self.assertEqual(status, 400, reply)
                    self.assertRegex(reply["data"]["message"], "JSON")
        called.assert_not_called()

    def test_json_within_the_limits_passes(self):
        for body in [
            b"[" * 64 + b"]" * 64,
            b'{"a":' * 64 + b"1" + b"}" * 64,
            b'"\\ud83d\\ude00"',
            b"\t\n{} ",
            b"-12345678901234567890",
        ]:
            with self.subTest(body[:20]):
                with mock.patch.object(
                    desk_ask, "answer", lambda r: r.data, create=True
                ):
                    status, reply = self.send("shop/desk_ask", body)
                self.assertEqual(status, 200, reply)

    def test_text_no_database_stores_is_a_400_in_values_and_keys(self):
        contact = {"email": "a@example.com", "text": "Hi"}
        for text in ["\0", "a\0b", "\ud800", "a\udfffb"]:
            for path_, data in [
                ("shop/desk", {"label": text}),
                ("shop/desk", {"label": "ash", text: 1}),
                ("shop/desk", {"label": {"deep": [text]}}),
                (f"shop/desk/{self.desk.pk}/update", {"label": text}),
                ("shop/contactform", {**contact, "text": text}),
                ("shop/contactform", {**contact, text: text}),
                ("shop/article/list", {"search": text}),
                ("shop/article/list", {"order_by": text}),
                ("shop/article/list", {text: text}),
            ]:
                with self.subTest(path=path_, data=data):
                    self.post(path_, data, status=400)
        form = "application/x-www-form-urlencoded"
        for body in ["label=%00", "label=ash&%00=1", "label%00=ash"]:
            self.assertEqual(self.send("shop/desk", body, form)[0], 400)

    def test_numbers_beyond_the_column_are_a_400_of_their_field(self):
        for height in [2**63, -(2**63) - 1, 10**900, 1e300, 1.5, True, "1" * 5000]:
            with self.subTest(height):
                errors = self.errors("shop/desk", {"label": "ash", "height": height})
                self.assertEqual(list(errors), ["height"])

    def test_a_body_of_the_wrong_shape_is_a_400(self):
        for value in [[], [{"label": "ash"}], "label", 1, True, None]:
            for path_ in ["shop/desk", f"shop/desk/{self.desk.pk}/update"]:
                with self.subTest(path=path_, value=value):
                    status, reply = self.send(path_, json.dumps(value))
                    self.assertEqual((status, reply["success"]), (400, False))
            self.assertEqual(self.send("shop/contactform", json.dumps(value))[0], 400)

    def test_get_delete_and_custom_operations_do_not_look_at_the_body(self):
        for operation in ["get", "polish", "delete"]:
            for body in [b"[1]", b'{"unknown": 1}', b"null"]:
                with self.subTest(operation, body=body):
                    desk = Desk.objects.create(label=f"{operation} {body}")
                    path_ = f"shop/desk/{desk.pk}/{operation}"
                    self.assertEqual(self.send(path_, body)[0], 200)

    def test_broken_forms_are_a_400(self):
        part = b"--x\r\nContent-Disposition: form-data; name=label"
        for content_type, body in [
            ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=", b"x"),
            ("multipart/form-data; boundary=" + "x" * 300, b"x"),
            ("multipart/form-data; boundary=\xe9", b"x"),
            ("multipart/form-data; boundary=x", b"garbage"),
            ("multipart/form-data; boundary=x", part),
            ("multipart/form-data; boundary=x", part + b"; filename*=no''%ff\r\n\r\n1"),
            ("application/x-www-form-urlencoded", b"%ff&&&=;"),
            ("application/x-www-form-urlencoded; charset=latin-1", b"label=%e9"),
            ("application/x-www-form-urlencoded; charset=base64", b"label=1"),
        ]:
            with self.subTest(content_type, body=body):
                status, reply = self.send("shop/desk", body, content_type)
                self.assertEqual(status, 400, reply)

    def test_a_charset_that_is_no_text_encoding_is_a_400(self):
        part = (
            b"--x\r\nContent-Disposition: form-data; name=label\r\n\r\na\xe9\r\n--x--"
        )
        for charset in ["base64", "rot13", "zlib", "hex", "idna", "undefined"]:
            for path_ in ["shop/desk", "shop/hello", "shop/contactform"]:
                with self.subTest(charset, path=path_):
                    content_type = f"multipart/form-data; boundary=x; charset={charset}"
                    status, reply = self.send(path_, part, content_type)
                    self.assertEqual(status, 400, reply)

    def test_what_is_too_large_is_a_413(self):
        files = {str(n): SimpleUploadedFile("a", b"") for n in range(4)}
        form = "application/x-www-form-urlencoded"
        with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=9):
            for path_ in ["shop/desk", "shop/hello", "shop/contactform"]:
                with self.subTest(path_):
                    self.assertEqual(self.send(path_, b'{"label": 1}')[0], 413)
                    self.assertEqual(self.send(path_, b"a=1234567890", form)[0], 413)
                    self.post(path_, {"a": "1234567890"}, form=True, status=413)
            self.assertEqual(self.send("shop/desk", b"1234567890", "text/xml")[0], 413)
        with override_settings(DATA_UPLOAD_MAX_NUMBER_FIELDS=3):
            self.assertEqual(self.send("shop/hello", b"a&b&c&d=1", form)[0], 413)
        with override_settings(DATA_UPLOAD_MAX_NUMBER_FILES=3):
            self.post("shop/hello", files, form=True, status=413)


class ResponseTests(DeskTestCase):
    def test_success_and_failure_have_one_shape_each(self):
        self.assertEqual(self.ask(lambda r: 1), {"success": True, "data": 1})
        error = ajax.AJAXError(418, "I am a teapot.")
        failure = {"code": 418, "message": "I am a teapot."}
        self.assertEqual(self.ask(error, 418), {"success": False, "data": failure})

    def test_returned_values_encode(self):
        desk = {"pk": str(self.desk.pk), "label": "oak", "height": 70}
        day = datetime.date(2024, 5, 6)
        moment = datetime.datetime(2024, 5, 6, 7, 8, 9, 5, datetime.timezone.utc)
        for value, expected in [
            ({"a": [1, None]}, {"a": [1, None]}),
            ("text", "text"),
            (mark_safe("<b>"), "<b>"),
            (True, True),
            (None, None),
            (1.5, 1.5),
            (float("nan"), None),
            (float("-inf"), None),
            (2**53 - 1, 2**53 - 1),
            (-(2**53), str(-(2**53))),
            (self.desk, desk),
            ([self.desk], [desk]),
            ({"a": self.desk, "b": [None, self.desk]}, {"a": desk, "b": [None, desk]}),
            (Desk.objects.all(), [desk]),
            (Desk.objects.none(), []),
            (Desk.objects.values_list("label", flat=True), ["oak"]),
            (Desk.objects.values("label"), [{"label": "oak"}]),
            ((n for n in (1, self.desk)), [1, desk]),
            (Desk.objects.iterator(), [desk]),
            ({1: "a", None: "b", day: "c"}, {"1": "a", "null": "b", "2024-05-06": "c"}),
            ({3}, [3]),
            ((1, 2), [1, 2]),
            (range(2), [0, 1]),
            (gettext_lazy("Yes"), "Yes"),
            ({gettext_lazy("No"): 1}, {"No": 1}),
            (day, "2024-05-06"),
            (moment, "2024-05-06T07:08:09.000005Z"),
            (datetime.time(7, 8), "07:08:00"),
            (datetime.timedelta(days=1, seconds=5), "P1DT00H00M05S"),
            (Decimal("9.50"), "9.50"),
            (self.desk.pk, str(self.desk.pk)),
            (b"\xff", "/w=="),
            ("\ud800", "\ud800"),
        ]:  # fmt: skip
            with self.subTest(value=value):
                found = self.ask(lambda request, value=value: value)["data"]
                self.assertEqual(found, expected)
                self.assertIs(type(found), type(expected))

    def test_metadata_goes_beside_data_and_replaces_nothing(self):
        metadata = {"total": 2, "success": False, "data": "no"}
        reply = self.ask(lambda r: ajax.EnvelopedResponse([self.desk.pk], metadata))
        data = [str(self.desk.pk)]
        self.assertEqual(reply, {"success": True, "data": data, "total": 2})
        self.assertEqual(
            self.ask(lambda r: ajax.EnvelopedResponse(Desk.objects.none(), {})),
            {"success": True, "data": []},
        )

    def test_an_ajax_error_is_raised_or_returned_with_its_extra(self):
        extra = {"hint": Decimal("1"), "success": True, "data": 5}
        for code in [400, 409, 418, 429, 499, 500, 503, 599]:
            error = ajax.AJAXError(code, gettext_lazy("No"), **extra)
            for answer in [error, lambda r, error=error: error]:
                with self.subTest(code):
                    reply = self.ask(answer, code)
                    self.assertEqual(reply["data"], {"code": code, "message": "No"})
                    self.assertEqual(reply["hint"], "1")
        for code in [200, 302, 399, 600]:
            with self.subTest(code), self.assertRaises(ValueError):
                ajax.AJAXError(code, "No")

    def test_a_response_of_the_endpoints_own_passes_untouched(self):
        plain = {"content_type": "text/plain"}
        for make, status, kind, content in [
            (lambda r: HttpResponse("<p>", status=201), 201, "text/html", b"<p>"),
            (lambda r: HttpResponse("a,b", "text/csv"), 200, "text/csv", b"a,b"),
            (lambda r: HttpResponse("no", status=500), 500, "text/html", b"no"),
            (lambda r: HttpResponseRedirect("/there/"), 302, "text/html", b""),
            (lambda r: StreamingHttpResponse([b"a", b"b"], **plain),
             200, "text/plain", b"ab"),
            (lambda r: FileResponse([b"pdf"], content_type="application/pdf"),
             200, "application/pdf", b"pdf"),
        ]:  # fmt: skip
            with self.subTest(status=status, kind=kind):
                with mock.patch.object(desk_ask, "answer", make, create=True):
                    response = self.client.post("/ajax/shop/desk_ask.json")
                body = b"".join(response) if response.streaming else response.content
                self.assertEqual(response.status_code, status)
                self.assertEqual(response["Content-Type"].split(";")[0], kind)
                self.assertEqual(body, content)

    def test_what_an_endpoint_raises_has_a_status_and_message_of_its_own(self):
        corrupt = DatabaseError("secret")
        corrupt.__cause__ = Exception("database disk image is malformed")
        for error, status, message in [
            (Http404("No such cup."), 404, "No such cup."),
            (exceptions.PermissionDenied("Hands off."), 403, "Hands off."),
            (exceptions.SuspiciousOperation("Hm."), 400, "Hm."),
            (exceptions.DisallowedHost("Who?"), 400, "Who?"),
            (exceptions.BadRequest("What?"), 400, "What?"),
            (exceptions.ValidationError("Too hot."), 400, "Too hot."),
            (exceptions.RequestDataTooBig("Big."), 413, "Big."),
            (Http404(), 404, "Not found."),
            (Resolver404({"path": "secret", "tried": ["secret"]}), 404, None),
            (exceptions.PermissionDenied(), 403, "Access to endpoint is forbidden"),
            (IntegrityError("INSERT secret"), 409, None),
            (models.ProtectedError("secret", {self.desk}), 409, None),
            (models.RestrictedError("secret", {self.desk}), 409, None),
            (DataError("SELECT secret"), 400, None),
            (OperationalError("database is locked"), 503, None),
            (OperationalError("database table is locked: secret"), 503, None),
            (OperationalError("canceling statement due to lock timeout"), 503, None),
            (OperationalError("no such table: a_secret_clock"),
             500, "Internal server error."),
            (OperationalError("server is gone"), 500, "Internal server error."),
            (corrupt, 500, "Internal server error."),
            (KeyError("secret"), 500, "Internal server error."),
            (RecursionError("secret"), 500, "Internal server error."),
        ]:  # fmt: skip
            with self.subTest(repr(error)):
                reply = self.ask(error, status)
                self.assertEqual(reply["data"]["message"], message or mock.ANY)
                self.assertNotIn("secret", json.dumps(reply))
                self.assertNotIn("traceback", reply)

    def test_a_validation_error_carries_its_errors_by_field(self):
        for error, expected in [
            (exceptions.ValidationError({"cup": ["Too hot."]}), {"cup": ["Too hot."]}),
            (exceptions.ValidationError("Too hot."), {"__all__": ["Too hot."]}),
            (exceptions.ValidationError(["A", "B"]), {"__all__": ["A", "B"]}),
            (exceptions.ValidationError("%(n)s cups", params={"n": 2}),
             {"__all__": ["2 cups"]}),
        ]:  # fmt: skip
            with self.subTest(expected):
                self.assertEqual(self.ask(error, 400)["errors"], expected)

    def test_who_may_not_is_told_so_and_where_to_log_in(self):
        drawer = f"shop/desk/{self.desk.pk}"
        Desk.objects.filter(pk=self.desk.pk).update(label="bolted down")
        reply = self.post(f"{drawer}/update", {"height": 1}, status=403)
        self.assertEqual(reply["data"]["message"], "Access to endpoint is forbidden")
        self.assertNotIn("login_url", reply)
        message = "Access to endpoint is forbidden"
        self.assertEqual(self.post("shop/note/list")["data"], [])
        self.client.force_login(self.other)
        reply = self.post(f"{drawer}/get", status=403)
        self.assertEqual(reply["data"]["message"], "User is not authorized.")
        self.assertNotIn("login_url", reply)
        self.client.logout()
        with override_settings(LOGIN_URL="/come/in/"):
            reply = self.post(f"{drawer}/get", status=403)
        self.assertEqual(reply["data"]["message"], "User is not authorized.")
        self.assertEqual(reply["login_url"], "/come/in/")
        self.client.force_login(self.user)
        reply = self.post("shop/country/list", status=403)
        self.assertEqual(reply["data"]["message"], message)

    def test_an_invalid_record_is_a_400_with_its_errors(self):
        for data, fields in [
            ({}, ["label"]),
            ({"label": "oak"}, ["label"]),
            ({"label": "x" * 51, "height": "tall"}, ["height", "label"]),
            ({"label": "ash", "wheels": 4}, ["wheels"]),
        ]:
            with self.subTest(data):
                reply = self.post("shop/desk", data, status=400)
                self.assertEqual(reply["data"]["message"], "Could not save model.")
                self.assertEqual(sorted(reply["errors"]), fields)

    def test_an_operation_that_needs_a_record_wants_one(self):
        for operation in ["get", "update", "delete"]:
            with self.subTest(operation):
                self.post(f"shop/desk/{operation}", status=400)

    def test_a_record_in_use_is_not_deleted(self):
        for model in [Drawer, DeskBell]:
            with self.subTest(model):
                used = model.objects.create(desk=self.desk)
                reply = self.post(f"shop/desk/{self.desk.pk}/delete", status=409)
                self.assertNotIn("Drawer", reply["data"]["message"])
                used.delete()

    def test_a_record_gone_before_it_is_locked_is_a_404(self):
        def vanish(endpoint, *arguments):
            Desk.objects.all().delete()
            return True

        for operation in ("update", "delete"):
            desk = Desk.objects.create(label="ash")
            hooked = mock.patch.object(DeskEndpoint, "authenticate", vanish)
            with self.subTest(operation), hooked:
                self.post(f"shop/desk/{desk.pk}/{operation}", {"height": 1}, status=404)
                self.assertFalse(Desk.objects.all())

    def test_a_clash_that_only_the_database_sees_is_a_409_and_logged(self):
        clash = functools.partial(Desk.objects.create, label="oak")

        def answer(request):
            with transaction.atomic():
                clash()

        with self.assertLogs("django.request") as logs:
            reply = self.ask(answer, 409)
        self.assertNotIn("label", reply["data"]["message"])
        self.assertEqual(len(logs.records), 1)
        self.assertIn("label", logs.records[0].getMessage())

    def test_json_response_gives_a_plain_view_the_same_answers(self):
        def call(answer):
            if isinstance(answer, Exception):
                answer = mock.Mock(side_effect=answer)
            with mock.patch.object(desk_ask, "answer", answer, create=True):
                response = self.client.get("/desk/plain/")
            return response.status_code, response.json()

        self.assertEqual(call(lambda r: 1), (200, {"success": True, "data": 1}))
        self.assertEqual(call(Http404("No."))[0], 404)
        self.assertEqual(call(ajax.AJAXError(418, "Tea", cup=1))[1]["cup"], 1)
        self.assertEqual(call(KeyError("a"))[0], 500)


class UnhandledTests(DeskTestCase):
    def test_an_exception_is_logged_and_signalled_once_with_its_request(self):
        signalled = []

        def receive(sender, request, **kwargs):
            signalled.append((request.path, sys.exc_info()[0]))

        got_request_exception.connect(receive)
        self.addCleanup(got_request_exception.disconnect, receive)
        with self.assertLogs("django.request", "ERROR") as logs:
            self.ask(ZeroDivisionError("by zero"), 500)
        self.assertEqual(signalled, [("/ajax/shop/desk_ask.json", ZeroDivisionError)])
        (record,) = logs.records
        self.assertEqual(record.request.path, "/ajax/shop/desk_ask.json")
        self.assertEqual(record.status_code, 500)
        self.assertIs(record.exc_info[0], ZeroDivisionError)

    def test_what_cannot_be_encoded_is_an_exception_like_any_other(self):
        for answer in [
            lambda r: object(),
            lambda r: {"a": [object()]},
            lambda r: (1 / 0 for n in [1]),
            lambda r: ajax.EnvelopedResponse(1, {"a": object()}),
            ajax.AJAXError(400, "No", extra=object()),
        ]:
            receive = mock.Mock()
            got_request_exception.connect(receive)
            self.addCleanup(got_request_exception.disconnect, receive)
            with self.subTest(answer), self.assertLogs("django.request") as logs:
                self.ask(answer, 500)
            self.assertEqual(len(logs.records), 1)
            self.assertEqual(receive.call_count, 1)
            got_request_exception.disconnect(receive)

    def test_expected_errors_are_logged_once_and_not_signalled(self):
        receive = mock.Mock()
        got_request_exception.connect(receive)
        self.addCleanup(got_request_exception.disconnect, receive)
        for error, status, level in [
            (Http404(), 404, "WARNING"),
            (IntegrityError(), 409, "WARNING"),
            (DataError(), 400, "WARNING"),
            (ajax.AJAXError(503, "Later."), 503, "ERROR"),
            (OperationalError("database is locked"), 503, "ERROR"),
        ]:
            with self.subTest(status), self.assertLogs("django.request") as logs:
                self.ask(error, status)
            self.assertEqual([r.levelname for r in logs.records], [level])
        receive.assert_not_called()

    def test_logs_hold_no_line_of_the_clients(self):
        for path_ in ["shop/a%0Aforged", "shop/desk/%1B[31m%0Aforged/get", "%0Aforged"]:
            with self.subTest(path_), self.assertLogs("django.request") as logs:
                self.post(path_, status=404)
            self.assertNotRegex(logs.records[0].getMessage(), "[\n\x1b]")
        with self.app(deskbad="raise KeyError"):
            with self.assertLogs("django.request") as logs:
                self.post("shop/a%0Aforged", status=500)
            self.assertNotIn("\n", logs.records[0].getMessage())

    @override_settings(DEBUG=True)
    def test_debug_shows_the_message_and_a_traceback_list(self):
        reply = self.ask(ZeroDivisionError("by zero"), 500)
        self.assertIn("by zero", reply["data"]["message"])
        self.assertIsInstance(reply["traceback"], list)
        self.assertIn("desk_ask", json.dumps(reply["traceback"]))
        self.assertNotIn("traceback", self.ask(Http404(), 404))

    def test_async_functions_fail_like_the_others(self):
        async def fail(request):
            raise Http404("No later.")

        async def break_down(request):
            raise KeyError("secret")

        self.assertEqual(self.ask(fail, 404)["data"]["message"], "No later.")
        with self.assertLogs("django.request") as logs:
            self.ask(break_down, 500)
        self.assertEqual(len(logs.records), 1)

    def test_under_atomic_requests_an_error_reply_rolls_back(self):
        def saved(error):
            def answer(request):
                Desk.objects.create(label="half done")
                if isinstance(error, Exception) and not isinstance(error, Returned):
                    raise error
                return error.args[0] if isinstance(error, Returned) else error

            return answer

        class Returned(Exception):
            pass

        with mock.patch.dict(connection.settings_dict, ATOMIC_REQUESTS=True):
            for error, status in [
                (KeyError("a"), 500),
                (ajax.AJAXError(400, "No"), 400),
                (Returned(ajax.AJAXError(400, "No")), 400),
                (Http404(), 404),
                (exceptions.ValidationError("No"), 400),
                (object(), 500),
            ]:
                with self.subTest(repr(error)):
                    self.ask(saved(error), status)
                    self.assertFalse(Desk.objects.filter(label="half done"))
            self.ask(saved("fine"))
        self.assertTrue(Desk.objects.filter(label="half done"))
        self.assertIn("default", ajax.dispatch._non_atomic_requests)

    def test_what_fails_at_the_commit_is_answered_as_json(self):
        class Failing(transaction.Atomic):
            def __exit__(self, *error):
                super().__exit__(*error)
                if error == (None, None, None):
                    raise IntegrityError("deferred")

        def atomic(using):
            return Failing(using, True, False)

        with (
            mock.patch.dict(connection.settings_dict, ATOMIC_REQUESTS=True),
            mock.patch.object(ajax.transaction, "atomic", atomic),
            self.assertLogs("django.request"),
        ):
            self.ask(lambda request: 1, 409)
            answered = ajax.json_response(lambda request: 1)(RequestFactory().post("/"))
            self.assertEqual(answered.status_code, 409)


class CsrfTests(DeskTestCase):
    MIDDLEWARE = [each for each in settings.MIDDLEWARE if "csrf" not in each]

    def setUp(self):
        self.client = Client(enforce_csrf_checks=True, raise_request_exception=False)

    def both(self):
        """Once with Django's middleware, once without."""
        for middleware in [settings.MIDDLEWARE, self.MIDDLEWARE]:
            with self.subTest(len(middleware)), self.settings(MIDDLEWARE=middleware):
                self.setUp()
                yield

    def token(self):
        """Return the token of a page, as its form would hold it."""
        return self.client.get("/desk/page/").content.decode()

    def assertRefused(self, path_, **extra):
        reply = self.post(path_, status=403, **extra)
        self.assertIs(reply["csrf"], True)
        return reply["data"]["message"]

    def test_every_caller_wants_a_token_anonymous_too(self):
        pk = self.news.pk
        paths = ["shop/hello", "shop/contactform", "shop/category", "shop/whoami"]
        paths += ["shop/article/list", f"shop/category/{pk}/get", "shop/article/count"]
        paths += [f"shop/article/{self.article.pk}/tags/clear"]
        for _ in self.both():
            for user in [None, self.user]:
                if user:
                    self.client.force_login(user)
                for path_ in paths:
                    with self.subTest(path_, user=user):
                        message = self.assertRefused(path_)
                        self.assertIn("CSRF cookie not set", message)
                        self.assertIn("X-CSRFToken", message.replace("Csrft", "CSRFT"))

    def test_a_token_in_header_or_form_passes(self):
        for _ in self.both():
            # Without the middleware no page sets the cookie: it is sent by hand.
            self.client.cookies["csrftoken"] = "a" * 32
            for form, data, extra in [
                (False, {"title": "A"}, {"HTTP_X_CSRFTOKEN": "a" * 32}),
                (True, {"title": "A"}, {"HTTP_X_CSRFTOKEN": "a" * 32}),
                (True, {"title": "A", "csrfmiddlewaretoken": "a" * 32}, {}),
            ]:
                self.client.force_login(self.user)
                self.client.cookies["csrftoken"] = "a" * 32
                self.post("shop/category", data, form=form, **extra)
                self.assertRefused("shop/category", HTTP_X_CSRFTOKEN="b" * 32)
                self.assertRefused("shop/category", HTTP_X_CSRFTOKEN="short")
                self.assertRefused("shop/category", HTTP_X_CSRFTOKEN="\xe9\n\0")

    def test_a_token_from_elsewhere_is_refused(self):
        token = {"HTTP_X_CSRFTOKEN": "a" * 32}
        for _ in self.both():
            self.client.cookies["csrftoken"] = "a" * 32
            self.post("shop/hello", **token)
            self.assertRefused(
                "shop/hello", HTTP_ORIGIN="https://evil.example", **token
            )
            self.assertRefused("shop/hello", HTTP_ORIGIN="null", **token)
            self.assertRefused("shop/hello", secure=True, **token)
            page = "https://testserver/page/"
            self.post("shop/hello", secure=True, HTTP_REFERER=page, **token)

    def test_the_token_may_live_in_the_session_or_a_hidden_cookie(self):
        for name in ["CSRF_USE_SESSIONS", "CSRF_COOKIE_HTTPONLY"]:
            with self.subTest(name), self.settings(**{name: True}):
                self.setUp()
                self.assertRefused("shop/hello")
                self.post("shop/hello", HTTP_X_CSRFTOKEN=self.token())
                data = {"csrfmiddlewaretoken": self.token()}
                self.post("shop/hello", data, form=True)
        with self.settings(CSRF_USE_SESSIONS=True):
            self.setUp()
            token = self.token()
            with self.settings(MIDDLEWARE=self.MIDDLEWARE):
                self.assertRefused("shop/hello")
                self.post("shop/hello", HTTP_X_CSRFTOKEN=token)

    def test_a_login_changes_the_token(self):
        for _ in self.both():
            self.client.cookies["csrftoken"] = "a" * 32
            self.post("shop/desk_sign_in", HTTP_X_CSRFTOKEN="a" * 32)
            new = self.client.cookies["csrftoken"].value
            self.assertNotEqual(new, "a" * 32)
            self.assertRefused("shop/whoami", HTTP_X_CSRFTOKEN="a" * 32)
            data = self.post("shop/whoami", HTTP_X_CSRFTOKEN=new)["data"]
            self.assertEqual(data, {"username": "bob"})

    def test_an_exempt_endpoint_is_exempt_and_only_that(self):
        for _ in self.both():
            self.assertEqual(self.post("shop/desk_exempt")["data"], "exempt")
            self.assertEqual(self.post("shop/desk_door")["data"], "open")
            self.assertRefused("shop/hello")

    def test_settings_of_the_project_name_cookie_and_header(self):
        names = {"CSRF_COOKIE_NAME": "xsrf", "CSRF_HEADER_NAME": "HTTP_X_XSRF"}
        with self.settings(CSRF_FAILURE_VIEW="no.such.view", **names):
            message = self.assertRefused("shop/hello").lower()
            self.assertIn("xsrf", message)
            self.assertIn("x-xsrf", message)
            self.client.cookies["xsrf"] = "a" * 32
            self.post("shop/hello", HTTP_X_XSRF="a" * 32)

    def test_what_comes_before_the_token_needs_none(self):
        self.post("shop/nothing", status=404)
        self.assertEqual(self.client.get("/ajax/shop/hello.json").status_code, 405)

    def test_an_unreadable_body_without_token_is_still_json(self):
        for body, content_type, statuses in [
            (b"x", "multipart/form-data", {400, 403}),
            (b"a=1", "application/x-www-form-urlencoded; charset=latin-1", {400, 403}),
            (b"{", "application/json", {403}),
        ]:
            with self.subTest(content_type):
                status, _ = self.send("shop/hello", body, content_type)
                self.assertIn(status, statuses)


class GarbageTests(DeskTestCase):
    """No request gets a 500, or HTML, below the mount."""

    def paths(self):
        desk, article = f"shop/desk/{self.desk.pk}", f"shop/article/{self.article.pk}"
        return [
            "shop/hello", "shop/whoami", "shop/contactform", "shop/desk",
            "shop/article",
            "shop/article/list", "shop/article/count", f"{desk}/get", f"{desk}/update",
            f"{desk}/polish", f"{article}/update", f"{article}/tags/set",
            f"{article}/tags/similar", "shop/country/create", "shop/note", "x", "x/y",
        ]  # fmt: skip

    BODIES = [
        b"", b"{}", b"[]", b"null", b"\0", b"\xff\xfe", b"{" * 5000,
        b"a=1&a=2", b"=&=&%", b"--x", b"--x\r\n\r\n\r\n--x--",
        b'--x\r\nContent-Disposition: form-data; name="\0"\r\n\r\n\xff\r\n--x--',
        b'{"title": {"pk": {}}}', b'{"tags": [[{}]], "x": NaN}',
        b'{"__class__": 1, "pk": [], "id": {}}', b'{"category": {"pk": {"pk": 1}}}',
        b'{"current_page": 1e300, "items_per_page": -1e300}', b'{"order_by": [["-"]]}',
        b'{"current_page": [], "search": {}}', b'{"search": "' + b"a " * 999 + b'"}',
        b'{"created": "9999-99-99", "price": "sNaN", "rating": "inf", "readers": 1}',
        b'{"created": "0001-01-01T00:00:00+23:59", "price": 1e300, "readers": [null]}',
        b'{"readers": {"pk": 1}, "category": "' + b"9" * 5000 + b'", "published": []}',
    ]  # fmt: skip
    TYPES = [
        "", "application/json", "application/json; charset=utf-16", "text/html", "\xe9",
        ";", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=x; charset=utf-7", "multipart/form-data",
        "application/x-www-form-urlencoded; charset=cp037",
        "multipart/mixed; boundary=x",
    ]  # fmt: skip

    def assertHarmless(self, path_, body, content_type, **extra):
        with transaction.atomic():
            status, reply = self.send(path_, body, content_type, **extra)
            transaction.set_rollback(True)
        self.assertLess(status, 500, reply)
        self.assertIs(reply["success"], status == 200)

    def test_bodies_and_content_types(self):
        for path_ in self.paths():
            for body in self.BODIES:
                for content_type in self.TYPES:
                    with self.subTest(path=path_, body=body[:60], type=content_type):
                        self.assertHarmless(path_, body, content_type)

    def test_paths(self):
        pieces = [
            "..",
            ".",
            "%00",
            "%0A",
            "%2F",
            "%FF",
            "%ED%A0%80",
            "'\"<b>",
            "\u00e9",
            " ",
        ]
        pieces += ["__class__", "None", "-1", "1e9", "%25s", "{0}", ";", "\\", "\u0661"]
        for piece in pieces:
            for form in ["{}", "shop/{}", "{}/hello", "shop/article/{}", "shop/{}/list",
                         "shop/article/{}/get", "shop/country/{}/update",
                         "shop/{}/1/get",
                         "shop/desk/{}/delete", f"shop/article/{self.article.pk}/{{}}",
                         f"shop/article/{self.article.pk}/{{}}/add",
                         f"shop/article/{self.article.pk}/tags/{{}}"]:  # fmt: skip
                with self.subTest(form.format(piece)):
                    path_ = form.replace("{}", piece)
                    self.assertHarmless(path_, b"{}", "application/json")

    def test_headers_and_cookies(self):
        junk = [
            "",
            "\xff",
            "a" * 9000,
            "'\"<b>;=,",
            "None",
            "-1",
            "%00",
            "\xe2\x80\xa8",
        ]
        names = [
            "HTTP_ACCEPT",
            "HTTP_COOKIE",
            "HTTP_X_CSRFTOKEN",
            "HTTP_ORIGIN",
            "HTTP_HOST",
        ]
        names += ["HTTP_REFERER", "HTTP_ACCEPT_LANGUAGE", "HTTP_X_REQUESTED_WITH"]
        names += [
            "HTTP_RANGE",
            "HTTP_IF_NONE_MATCH",
            "QUERY_STRING",
            "HTTP_AUTHORIZATION",
        ]
        names += ["HTTP_CONTENT_ENCODING", "HTTP_X_HTTP_METHOD_OVERRIDE"]
        for enforce in [False, True]:
            self.client = Client(enforce, raise_request_exception=False)
            for name in names:
                for value in junk:
                    for secure in ["http", "https"]:
                        extra = {name: value, "wsgi.url_scheme": secure}
                        with self.subTest(name, value=value, enforce=enforce):
                            self.assertHarmless(
                                "shop/hello", b"a=1", self.TYPES[6], **extra
                            )
        for name in ["csrftoken", "sessionid"]:
            for value in junk:
                self.client.cookies.clear()
                self.client.cookies[name] = value
                with self.subTest(name, value=value):
                    self.assertHarmless("shop/article/list", b"{}", self.TYPES[1])

    def test_a_content_length_that_is_no_number(self):
        for length in ["abc", "", "-5", "1.5"]:
            for content_type in self.TYPES[1], self.TYPES[6], self.TYPES[7]:
                with self.subTest(length, type=content_type):
                    extra = {"CONTENT_LENGTH": length}
                    self.assertHarmless("shop/desk", b"{}", content_type, **extra)

    def test_random_json_for_every_field(self):
        dice = random.Random(20240506)
        keys = ["title", "label", "height", "category", "author", "readers", "tags",
        "pk",
                "created", "price", "rating", "published", "search", "order_by", "code",
                "category__title", "created__gte", "items_per_page", "name",
                ""]  # fmt: skip
        leaves = [None, True, 0, -1, 2**63, 10**400, 1e308, "", "1", "x" * 300, "\0",
        "\ud800",
                  "2024-05-06", "9" * 400, "-", ",", '"', "inf", "\u0661"]  # fmt: skip

        def value(depth=0):
            kind = dice.randrange(6) if depth < 3 else 5
            if kind == 0:
                return [value(depth + 1) for _ in range(dice.randrange(3))]
            if kind == 1:
                key = dice.choice(["pk", "name", *keys])
                return {key: value(depth + 1)}
            return dice.choice(leaves)

        for path_ in self.paths() * 15:
            data = {dice.choice(keys): value() for _ in range(dice.randrange(1, 5))}
            with self.subTest(path=path_, data=data):
                self.assertHarmless(path_, json.dumps(data), "application/json")

    if importlib.util.find_spec("hypothesis"):

        def test_what_hypothesis_comes_up_with(self):
            from hypothesis import given, settings
            from hypothesis import strategies as some

            bounded = settings(
                max_examples=150, derandomize=True, deadline=None, database=None
            )
            leaf = some.none() | some.booleans() | some.integers() | some.floats()
            value = some.recursive(
                leaf | some.text(some.characters(codec=None), max_size=20),
                lambda inner: (
                    some.lists(inner, max_size=4)
                    | some.dictionaries(some.text(max_size=8), inner, max_size=4)
                ),
                max_leaves=8,
            )
            key = some.sampled_from(["label", "height", "title", "category", "author",
                                     "readers", "tags", "created", "price",
                                     "pk"])  # fmt: skip
            path_ = some.sampled_from(self.paths())

            @bounded
            @given(path_, some.binary(max_size=200), some.sampled_from(self.TYPES))
            def any_bytes(path_, body, content_type):
                self.assertHarmless(path_, body, content_type)

            @bounded
            @given(path_, some.dictionaries(key | some.text(), value, max_size=5))
            def any_json(path_, data):
                self.assertHarmless(path_, json.dumps(data), "application/json")

            @bounded
            @given(some.text(some.characters(codec=None), max_size=30))
            def any_path(text):
                text = quote(text, safe="", errors="surrogatepass")
                for path_ in [f"{text}", f"shop/{text}", f"shop/article/{text}/update"]:
                    self.assertHarmless(path_, b"{}", "application/json")

            for check in [any_bytes, any_json, any_path]:
                with self.subTest(check.__name__):
                    check()


# --- Models and endpoints for create, update and delete -------------------------------


class Shelf(models.Model):
    code = models.SlugField(primary_key=True)
    room = models.CharField(max_length=20, blank=True)


class Cabinet(Shelf):
    doors = models.PositiveIntegerField(default=2)


class Locker(models.Model):
    number = models.IntegerField(primary_key=True)
    owner = models.CharField(max_length=20, blank=True)


class Terminal(models.Model):
    address = models.GenericIPAddressField(primary_key=True)


class Writer(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=50, unique=True)
    retired = models.BooleanField(default=False)


class Book(models.Model):
    writer = models.ForeignKey(
        Writer, models.PROTECT, limit_choices_to={"retired": False}
    )
    shelf = models.ForeignKey(Shelf, models.RESTRICT, null=True, blank=True)
    title = models.CharField(max_length=40)
    slug = models.SlugField(editable=False)
    pages = models.PositiveIntegerField(default=100)
    copies = models.PositiveIntegerField(default=1)
    lent = models.BooleanField(default=True)
    price = models.DecimalField(max_digits=6, decimal_places=2, default=5)
    note = models.CharField(max_length=40, null=True, blank=True)
    internal = models.CharField(max_length=20, default="kept")
    sides = models.GeneratedField(
        expression=models.F("pages") * 2,
        output_field=models.IntegerField(),
        db_persist=True,
    )
    changed = models.DateTimeField(auto_now=True)
    sequels = models.ManyToManyField("self", symmetrical=False, blank=True)
    keepers = models.ManyToManyField(User, related_name="+")
    fixed = models.ManyToManyField(User, related_name="+", blank=True, editable=False)
    tags = TaggableManager(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint("title", "writer", name="one_book_of_a_title"),
            models.CheckConstraint(
                condition=models.Q(copies__lte=models.F("pages")), name="few_copies"
            ),
        ]

    def clean(self):
        if self.title == "Untitled":
            raise ValidationError({"title": "Name it.", "internal": "Ask the office."})

    def save(self, *args, **kwargs):
        self.slug = slugify(self.title)
        super().save(*args, **kwargs)


class Atlas(Book):
    scale = models.PositiveIntegerField()


class Paperback(Book):
    class Meta:
        proxy = True


class Binding(models.Model):
    book = models.OneToOneField(Book, models.CASCADE, primary_key=True)
    material = models.CharField(max_length=5, choices=[("cloth", "C"), ("paper", "P")])


class Manuscript(models.Model):
    title = models.CharField(max_length=20, blank=True)
    scan = models.FileField(blank=True)
    deed = models.FileField(upload_to="deeds")


class Librarian(AbstractBaseUser):
    card = models.CharField(max_length=20, unique=True)
    is_admin = models.BooleanField(default=False)
    USERNAME_FIELD = "card"


class IndexCard(models.Model):
    """One field of each kind."""

    may_be_empty = {"null": True, "blank": True}

    char = models.CharField(max_length=5, **may_be_empty)
    kind = models.CharField(
        max_length=5, choices=[("a", "A"), ("b", "B")], **may_be_empty
    )
    text = models.TextField(**may_be_empty)
    email = models.EmailField(**may_be_empty)
    url = models.URLField(**may_be_empty)
    slug = models.SlugField(**may_be_empty)
    address = models.GenericIPAddressField(**may_be_empty)
    uuid = models.UUIDField(**may_be_empty)
    integer = models.IntegerField(**may_be_empty)
    big = models.BigIntegerField(**may_be_empty)
    positive = models.PositiveSmallIntegerField(**may_be_empty)
    decimal = models.DecimalField(max_digits=5, decimal_places=2, **may_be_empty)
    float = models.FloatField(**may_be_empty)
    boolean = models.BooleanField(**may_be_empty)
    date = models.DateField(**may_be_empty)
    time = models.TimeField(**may_be_empty)
    moment = models.DateTimeField(**may_be_empty)
    duration = models.DurationField(**may_be_empty)
    json = models.JSONField(**may_be_empty)
    binary = models.BinaryField(max_length=4, editable=True, **may_be_empty)


class BookEndpoint(ajax.ModelEndpoint):
    exclude = ["internal"]

    def can_list(self, user):
        return True


ajax.endpoint.register([Book, Atlas, Paperback], BookEndpoint)
ajax.endpoint.register([Writer, Manuscript, Librarian, IndexCard, Terminal])


@ajax.register(Shelf)
class ShelfEndpoint(ajax.ModelEndpoint):
    fields = ["code", "room"]


@ajax.register(Cabinet)
class CabinetEndpoint(ajax.ModelEndpoint):
    fields = ["code", "room", "doors"]


@ajax.register(Locker)
class LockerEndpoint(ajax.ModelEndpoint):
    fields = ["pk", "owner"]


@ajax.register(Binding)
class BindingEndpoint(ajax.ModelEndpoint):
    fields = ["book", "material"]
    expand = False


class BookForm(forms.ModelForm):
    class Meta:
        model = Book
        fields = ["title", "writer", "pages", "copies"]

    def __init__(self, *args, user=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.instance.note = f"by {user}"


@ajax.register(BookForm)
class BookFormEndpoint(ajax.FormEndpoint):
    def get_form_kwargs(self, request):
        return {"user": request.user.username}


class OpeningForm(forms.Form):
    day = forms.DateField()
    hours = forms.MultipleChoiceField(choices=[("am", "a"), ("pm", "p")])
    quiet = forms.NullBooleanField()
    seats = forms.IntegerField(required=False)
    plan = forms.FileField(required=False)


ajax.endpoint.register(OpeningForm)


class LibraryTestCase(AjaxTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.shelf = Shelf.objects.create(code="a-1")
        cls.writer = Writer.objects.create(name="Lem")
        cls.retired = Writer.objects.create(name="Old", retired=True)
        cls.book = Book.objects.create(title="Solaris", writer=cls.writer, pages=200)
        cls.book.tags.add("sea")
        cls.book.keepers.add(cls.user)

    def serve(self, model, **attributes):
        """Serve a model with these class attributes, until the test ends."""
        kept = ajax.endpoint.find(model)
        ajax.endpoint.unregister(model)
        ajax.endpoint.register(model, type("Served", (kept,), attributes))
        self.addCleanup(ajax.endpoint.register, model, kept)
        self.addCleanup(ajax.endpoint.unregister, model)

    def receive(self, signal, receiver):
        signal.connect(receiver, weak=False)
        self.addCleanup(signal.disconnect, receiver)

    def create(self, data=None, **extra):
        data = {"title": "Eden", "writer": str(self.writer.pk)} | (data or {})
        return self.post("shop/book/create", data, **extra)["data"]

    def update(self, data, **extra):
        return self.post(f"shop/book/{self.book.pk}/update", data, **extra)["data"]

    def refused(self, data, **extra):
        return self.errors(f"shop/book/{self.book.pk}/update", data, **extra)

    def stored(self):
        return Book.objects.get(pk=self.book.pk)


class BodyTests(LibraryTestCase):
    """What each key of a body means."""

    def test_an_absent_key_takes_the_default_or_keeps_the_value(self):
        for form in (False, True):
            with self.subTest(form=form):
                made = self.create({"title": f"Eden {form}"}, form=form)
                self.assertEqual((made["pages"], made["lent"]), (100, True))
                self.assertIsNone(made["note"])
                kept = self.update({"note": "x"}, form=form)
                self.assertEqual((kept["pages"], kept["lent"]), (200, True))
                self.assertEqual([tag["name"] for tag in kept["tags"]], ["sea"])
                self.assertEqual(kept["keepers"], [self.user.pk])

    def test_null_and_empty_text(self):
        card = IndexCard.objects.create()
        rows = [  # key, sent, by form, shown
            ("char", None, False, None),
            ("char", "", False, ""),
            ("char", "", True, ""),
            ("char", "null", True, "null"),
            ("text", "null", True, "null"),
            ("integer", None, False, None),
            ("integer", "", True, None),
            ("integer", "null", True, None),
            ("date", "null", True, None),
            ("boolean", "", True, None),
            ("json", None, False, None),
            ("json", "null", True, None),
            ("address", "", True, None),
        ]
        IndexCard.objects.update(char="old", text="old", integer=1, boolean=True)
        for key, sent, form, shown in rows:
            with self.subTest(key=key, sent=sent, form=form):
                path = f"shop/indexcard/{card.pk}/update"
                reply = self.post(path, {key: sent}, form=form)
                self.assertEqual(reply["data"][key], shown)

    def test_null_where_there_is_none_is_refused(self):
        for key in ("title", "pages", "lent", "writer", "sequels", "tags"):
            with self.subTest(key=key):
                self.assertEqual([*self.refused({key: None})], [key])
        for key in ("pages", "lent", "writer"):
            with self.subTest(key=key, form=True):
                self.assertEqual([*self.refused({key: ""}, form=True)], [key])

    def test_a_single_value_is_not_sent_twice_by_a_form(self):
        for key in ("title", "lent", "writer", "pages"):
            with self.subTest(key=key):
                self.assertEqual([*self.refused({key: ["1", "1"]}, form=True)], [key])

    def test_booleans(self):
        for sent in (True, False):
            self.assertIs(self.update({"lent": sent})["lent"], sent)
        for sent in ("true", "True", "TRUE", "on", "On", "t", "1"):
            with self.subTest(sent=sent):
                Book.objects.update(lent=False)
                self.assertIs(self.update({"lent": sent}, form=True)["lent"], True)
        for sent in ("false", "FALSE", "off", "OFF", "f", "0", "False"):
            with self.subTest(sent=sent):
                Book.objects.update(lent=True)
                self.assertIs(self.update({"lent": sent}, form=True)["lent"], False)
        for sent, form in ((2, False), ("yes!", False), ([], False), ("yes!", True)):
            with self.subTest(sent=sent, form=form):
                self.assertEqual([*self.refused({"lent": sent}, form=form)], ["lent"])

    def test_a_foreign_key_is_a_pk_or_an_object_with_one(self):
        other = Writer.objects.create(name="Dick")
        for sent in (str(other.pk), {"pk": str(other.pk), "name": "ignored"}):
            Book.objects.update(writer=self.writer)
            self.assertEqual(self.update({"writer": sent})["writer"]["name"], "Dick")
        for sent, form in (("a-1", False), ({"pk": "a-1"}, False), ("a-1", True)):
            Book.objects.update(shelf=None)
            data = self.update({"shelf": sent}, form=form)
            self.assertEqual(data["shelf"], {"pk": "a-1", "room": ""})
        for sent, form in ((None, False), ("", True), ("null", True)):
            Book.objects.update(shelf=self.shelf)
            self.assertIsNone(self.update({"shelf": sent}, form=form)["shelf"])

    def test_a_foreign_key_to_nothing_is_refused_like_one_that_may_not_be_seen(self):
        nothing = self.refused({"writer": str(uuid.uuid4())})
        bad = [
            "x",
            1,
            1.5,
            True,
            [],
            {},
            {"pk": None},
            {"pk": {"pk": 1}},
        ]
        for sent in [*bad, str(self.retired.pk), 10**40]:
            with self.subTest(sent=sent):
                self.assertEqual([*self.refused({"writer": sent})], ["writer"])
        hidden = self.refused({"writer": str(self.retired.pk)})
        strip = str(nothing)[:20]
        self.assertEqual(str(hidden)[:20], strip)
        self.assertEqual(self.stored().writer, self.writer)

    def test_many_to_many_values(self):
        one, two = (Book.objects.create(title=t, writer=self.writer) for t in "ab")
        both = [one.pk, two.pk]
        rows = [
            (both, {}),
            ([str(one.pk), {"pk": two.pk, "title": "ignored"}, two.pk], {}),
            (both, {"form": True}),
            (json.dumps(both), {"form": True}),
        ]
        for sent, extra in rows:
            with self.subTest(sent=sent, extra=extra):
                self.book.sequels.clear()
                self.assertEqual(
                    self.update({"sequels": sent}, **extra)["sequels"], both
                )
        data = urlencode({"sequels[]": both}, doseq=True)
        form = "application/x-www-form-urlencoded"
        self.assertEqual(self.update(data, content_type=form)["sequels"], both)
        self.assertEqual(self.update({"title": "kept"})["sequels"], both)
        for sent, extra in (([], {}), ("", {"form": True}), ("[]", {"form": True})):
            self.book.sequels.set(both)
            self.assertEqual(self.update({"sequels": sent}, **extra)["sequels"], [])

    def test_many_to_many_values_that_are_refused(self):
        pk = self.book.pk
        bad = [0, "5", {}, [0], [None], [[pk]], [{}], [True], [2**70], [1.5]]
        for sent in [*bad, [pk] * 1001]:
            with self.subTest(sent=str(sent)[:20]):
                self.assertEqual([*self.refused({"sequels": sent})], ["sequels"])
        for sent in ("x", "[", '["x"]', '{"pk": 1}', "[[]]"):
            with self.subTest(sent=sent, form=True):
                errors = self.refused({"sequels": sent}, form=True)
                self.assertEqual([*errors], ["sequels"])
        self.assertEqual([*self.refused({"keepers": []})], ["keepers"])
        self.assertEqual([*self.refused({"keepers": ""}, form=True)], ["keepers"])
        self.assertEqual([*self.book.keepers.all()], [self.user])

    def test_tags_are_a_list_or_text(self):
        rows = [
            (["b", "a", "b"], {}, ["a", "b"]),
            ([{"pk": 9, "name": "a", "slug": "z"}, "b"], {}, ["a", "b"]),
            ("a, b", {}, ["a", "b"]),
            ('"a, b" c', {}, ["a, b", "c"]),
            ("a b", {"form": True}, ["a", "b"]),
            (["a", "b"], {"form": True}, ["a", "b"]),
            ([], {}, []),
            ("", {}, []),
            ("", {"form": True}, []),
        ]
        for sent, extra, names in rows:
            with self.subTest(sent=sent, extra=extra):
                self.book.tags.set(["sea"])
                tags = self.update({"tags": sent}, **extra)["tags"]
                self.assertEqual(sorted(tag["name"] for tag in tags), names)
                title = f"of {sent} {extra}"[:40]
                made = self.create({"title": title, "tags": sent}, **extra)["tags"]
                self.assertEqual(sorted(tag["name"] for tag in made), names)

    def test_tags_that_are_refused(self):
        bad = [
            5,
            {},
            [5],
            [None],
            [{}],
            [""],
            ["a" * 101],
            [["a"]],
        ]
        for sent in [*bad, [str(number) for number in range(101)]]:
            with self.subTest(sent=str(sent)[:20]):
                self.assertEqual([*self.refused({"tags": sent})], ["tags"])
        self.assertEqual([*self.book.tags.names()], ["sea"])
        self.assertEqual(
            len(self.update({"tags": [*map(str, range(100))]})["tags"]), 100
        )

    def test_unknown_keys_are_refused_with_what_may_have_been_meant(self):
        errors = self.refused({"titel": "x"})
        self.assertEqual(errors, {"titel": ['Unknown key. Did you mean "title"?']})
        # A hidden field, one of the database's and nonsense look the same.
        for key in ("internal", "internax", "id", "writer_id", "__class__", ""):
            with self.subTest(key=key):
                [message] = self.refused({key: "x"})[key]
                self.assertTrue(message.startswith("Unknown key."))
                self.assertNotIn('"internal"', message)
        self.assertIn("plan", self.refused({"plan": self.upload()}, form=True))
        self.update({"title": "New", "csrfmiddlewaretoken": "x"}, form=True)
        self.assertEqual(self.stored().title, "New")

    def test_a_record_that_was_read_is_sent_back_whole(self):
        self.book.fixed.add(self.other)
        record = self.post(f"shop/book/{self.book.pk}/get")["data"]
        sent = record | {"pk": 0, "slug": "x", "sides": 1, "changed": "x", "fixed": []}
        self.assertEqual(self.update(sent), record)
        self.assertEqual(self.update(record | {"title": "New"})["slug"], "new")

    def test_date_times_without_offset_are_local(self):
        rows = [
            ("2024-07-01T12:00", "2024-07-01T10:00:00Z"),
            ("2024-07-01T12:00:00.123456Z", "2024-07-01T12:00:00.123456Z"),
            ("2024-07-01T12:00+05:30", "2024-07-01T06:30:00Z"),
        ]
        with timezone.override("Europe/Berlin"):
            for sent, shown in rows:
                data = self.post("shop/indexcard", {"moment": sent})["data"]
                self.assertEqual(data["moment"], shown)
            self.errors("shop/indexcard", {"moment": "2024-03-31T02:30"})

    def upload(self, name="a.txt", content=b"words"):
        return SimpleUploadedFile(name, content)

    def test_files_are_uploaded_kept_and_cleared(self):
        data = self.post(
            "shop/manuscript", {"scan": self.upload(), "deed": self.upload()}, form=True
        )["data"]
        self.assertRegex(data["deed"], r"^/media/deeds/a.*\.txt$")
        path = f"shop/manuscript/{data['pk']}/update"
        self.assertEqual(
            self.post(path, data | {"title": "x"})["data"]["deed"], data["deed"]
        )
        self.post(path, {"scan": "", "deed": "elsewhere.txt"}, form=True)
        stored = Manuscript.objects.get(pk=data["pk"])
        self.assertEqual(stored.scan.read(), b"words")
        self.assertEqual(stored.scan.url, data["scan"])
        self.assertEqual([*self.errors(path, {"deed": None})], ["deed"])
        self.assertEqual([*self.errors(path, {"deed": "null"}, form=True)], ["deed"])
        self.assertIsNone(self.post(path, {"scan": None})["data"]["scan"])

    def test_files_that_are_refused(self):
        self.assertEqual([*self.errors("shop/manuscript", {"title": "x"})], ["deed"])
        for sent in (
            self.upload(content=b""),
            self.upload("a" * 200),
            [self.upload()] * 2,
        ):
            errors = self.errors("shop/manuscript", {"deed": sent}, form=True)
            self.assertEqual([*errors], ["deed"])
        for sent in (5, [], {}, True):
            data = {"scan": sent}
            self.assertIn("scan", self.errors("shop/manuscript", data))

    def test_a_file_is_replaced_by_one_of_the_same_name(self):
        record = Manuscript.objects.create(
            deed=self.upload(), scan=self.upload("same.txt")
        )
        self.addCleanup(record.scan.storage.delete, "same.txt")
        self.serve(
            Manuscript,
            can_update=lambda self, user, record, modified: bool(record.scan),
        )
        sent = {"scan": self.upload("same.txt", b"newer")}
        self.post(f"shop/manuscript/{record.pk}/update", sent, form=True)
        record.refresh_from_db()
        self.assertEqual(record.scan.read(), b"newer")

    def test_bodies_of_another_shape_are_refused(self):
        path = f"shop/book/{self.book.pk}/update"
        deep = "[" * 64 + "]" * 64
        bodies = [
            "[]",
            "5",
            "null",
            '"x"',
            "{",
            '{"a": 1, "a": 2}',
            '{"pages": NaN}',
            '{"price": 1e999}',
            '{"pages": ' + "9" * 5000 + "}",
            b"\xff",
            '{"note": ' + deep + "}",
            '{"note": ' + "[" * 90000 + "}",
        ]
        for body in bodies:
            for url in (path, "shop/book/create"):
                with self.subTest(body=body[:20], url=url):
                    self.post(url, body, status=400, content_type="application/json")
        self.assertEqual(self.stored().pages, 200)

    def test_get_delete_and_custom_operations_do_not_look_at_the_body(self):
        self.serve(Book, shout=lambda self, request: self.record.title.upper())
        for operation in ("get", "shout", "delete"):
            path = f"shop/book/{self.book.pk}/{operation}"
            self.post(path, ["nothing", {"that": "matters"}])


#: For each field of IndexCard: what is sent and shown, and what is refused.
KINDS = {
    "char": ([("abc", "abc"), (5, "5"), ("ä€😀", "ä€😀")], ["abcdef", True]),
    "kind": ([("a", "a")], ["c", 1]),
    "text": ([("x" * 999, "x" * 999)], [False]),
    "email": ([("a@b.de", "a@b.de")], ["a"]),
    "url": ([("https://a.de/", "https://a.de/")], ["javascript:alert(1)", "a"]),
    "slug": ([("a-b", "a-b")], ["a b"]),
    "address": ([("::1", "::1"), ("10.0.0.1", "10.0.0.1")], ["10.0.0.256", "x", 5]),
    "uuid": (
        [("12345678" * 4, "12345678-1234-5678-1234-567812345678")],
        ["x", -1, 1.5],
    ),
    "integer": ([(-5, -5), ("7", 7)], ["x", 1.5, True, 10**40, 2**63, "1e3"]),
    "big": (
        [(2**63 - 1, str(2**63 - 1)), (2**53 - 1, 2**53 - 1)],
        [2**63, -(2**63) - 1],
    ),
    "positive": ([(0, 0)], [-1, 2**63]),
    "decimal": (
        [("9.5", "9.50"), (1, "1.00"), (0.25, "0.25"), ("0E+999999", "0.00")],
        ["x", "NaN", "Infinity", "1e999999", "1000", "0.001", "1e-99999", True, 10**99],
    ),
    "float": (
        [(1.5, 1.5), (2, 2.0), ("1e3", 1000.0)],
        ["x", "nan", "inf", "1e999", 10**400],
    ),
    "boolean": ([(True, True), ("true", True), (0, False)], ["x", 2]),
    "date": (
        [("2024-02-29", "2024-02-29")],
        ["2023-02-29", "x", 5, True, 1.5, "0000-01-01"],
    ),
    "time": ([("12:30", "12:30:00")], ["25:00", "x", 5, 1.5]),
    "moment": (
        [("2024-02-29T00:00Z", "2024-02-29T00:00:00Z")],
        [
            "x",
            5,
            "2023-02-29",
            "0001-01-01T00:00+14:00",
            "9999-12-31T23:59-14:00",
            True,
        ],
    ),
    "duration": (
        [("1 02:00:00", "P1DT02H00M00S"), ("P1D", "P1DT00H00M00S")],
        ["x", "99999999999 00:00:00", True],
    ),
    "json": ([({"a": [1, None, "ä"]}, {"a": [1, None, "ä"]}), (0, 0)], []),
    "binary": ([("AAEC", "AAEC")], ["x", "A===", "ä", 5, True, "AAECAwQF"]),
}


class KindsOfFieldTests(LibraryTestCase):
    def test_values_that_each_kind_of_field_takes(self):
        for key, (good, _bad) in KINDS.items():
            for sent, shown in good:
                with self.subTest(key=key, sent=sent):
                    made = self.post("shop/indexcard", {key: sent})["data"]
                    self.assertEqual(made[key], shown)
                    path = f"shop/indexcard/{made['pk']}/update"
                    IndexCard.objects.update(**{key: None})
                    text = json.dumps(sent) if key == "json" else str(sent)
                    updated = self.post(path, {key: text}, form=True)["data"]
                    self.assertEqual(updated[key], shown)

    def test_values_that_each_kind_of_field_refuses(self):
        card = IndexCard.objects.create()
        for key, (_good, bad) in KINDS.items():
            kind = [] if key == "json" else [{}, [], [[1]], {"pk": 1}]
            for sent in [*bad, *kind]:
                for path in ("shop/indexcard", f"shop/indexcard/{card.pk}/update"):
                    with self.subTest(key=key, sent=sent, path=path):
                        self.assertEqual([*self.errors(path, {key: sent})], [key])

    def test_texts_of_a_form_that_each_kind_of_field_refuses(self):
        for key, (_good, bad) in KINDS.items():
            texts = [
                text for text in bad if type(text) is str and text not in ("", "true")
            ]
            for sent in [*texts, SimpleUploadedFile("abcdefgh", b"x")]:
                with self.subTest(key=key, sent=sent):
                    errors = self.errors("shop/indexcard", {key: sent}, form=True)
                    self.assertEqual([*errors], [key])

    def test_a_json_value_of_another_type_is_a_change(self):
        card = IndexCard.objects.create(json={"n": 1})
        for value in ({"n": True}, {"n": 1}, [0], [False]):
            with self.subTest(value=value):
                self.post(f"shop/indexcard/{card.pk}/update", {"json": value})
                card.refresh_from_db()
                self.assertEqual(repr(card.json), repr(value))


class KindsOfKeyTests(LibraryTestCase):
    def test_records_with_any_key_are_created_read_updated_and_deleted(self):
        rows = [  # model, sent, changes, pk
            ("writer", {"name": "New"}, {"name": "Newer"}, None),
            ("shelf", {"code": "b-2"}, {"room": "x"}, "b-2"),
            ("cabinet", {"code": "c-3", "room": "x"}, {"doors": 4, "room": "y"}, "c-3"),
            ("locker", {"pk": -7}, {"owner": "x"}, -7),
            ("locker", {"pk": 2**53}, {"owner": "x"}, str(2**53)),
            (
                "binding",
                {"book": self.book.pk, "material": "cloth"},
                {"material": "paper"},
                self.book.pk,
            ),
            (
                "atlas",
                {
                    "title": "T",
                    "writer": str(self.writer.pk),
                    "scale": 5,
                    "keepers": [self.user.pk],
                },
                {"title": "U", "scale": 6},
                None,
            ),
            (
                "paperback",
                {
                    "title": "P",
                    "writer": str(self.writer.pk),
                    "keepers": [self.user.pk],
                },
                {"title": "Q"},
                None,
            ),
        ]
        if connection.vendor == "postgresql":
            rows = [row for row in rows if row[3] != str(2**53)]
        for model, sent, changes, pk in rows:
            with self.subTest(model=model, pk=pk):
                made = self.post(f"shop/{model}", sent)["data"]
                path = f"shop/{model}/{made['pk']}"
                self.assertIn(made["pk"], (made["pk"],) if pk is None else (pk,))
                self.assertEqual(self.post(f"{path}/get")["data"], made)
                updated = self.post(f"{path}/update", made | changes)["data"]
                self.assertEqual(updated, updated | changes | {"pk": made["pk"]})
                deleted = self.post(f"{path}/delete")["data"]
                self.assertEqual(deleted, {"pk": made["pk"]})
                self.post(f"{path}/get", status=404)

    def test_a_key_that_cannot_be_is_a_record_that_does_not_exist(self):
        keys = {
            "book": ["x", "1.5", "1e3", "-1", "007", "9" * 30, "9" * 5000, "None"],
            "writer": ["x", "1", "-1", "{" * 36],
            "shelf": ["a b", "None", "x" * 999, "\0", "ä"],
            "terminal": ["1.2.3", "x", "::g", "\0"],
            "binding": ["x", "0"],
        }
        for model, values in keys.items():
            for value in values:
                for operation in ("get", "update", "delete"):
                    with self.subTest(
                        model=model, value=value[:9], operation=operation
                    ):
                        path = f"shop/{model}/{quote(value)}/{operation}"
                        self.post(path, status=404)

    def test_a_natural_key_is_written_once(self):
        self.assertEqual(self.post("shop/shelf", {"code": "b"})["data"]["pk"], "b")
        for data in (
            {"code": "b"},
            {"pk": "b"},
            {"pk": "a b"},
            {"pk": ""},
            {"pk": None},
            {},
        ):
            with self.subTest(data=data):
                self.errors("shop/shelf", data)
        data = self.post("shop/shelf/b/update", {"code": "c", "pk": "c", "room": "x"})
        self.assertEqual(data["data"], {"pk": "b", "room": "x"})
        self.assertEqual(
            self.errors("shop/binding", {"book": 0, "material": "cloth"}).keys(),
            {"book"},
        )

    def test_a_key_that_fields_does_not_name_is_not_written(self):
        chosen = str(uuid.uuid4())
        made = self.post("shop/writer", {"pk": chosen, "name": "New"})["data"]
        self.assertNotEqual(made["pk"], chosen)
        self.serve(Shelf, fields=None)
        self.errors("shop/shelf", {"pk": "z", "room": "x"})
        self.serve(Shelf, fields=["code", "room"], readonly_fields=["code"])
        self.errors("shop/shelf", {"pk": "z", "room": "x"})

    def test_a_parent_and_its_child_are_one_record(self):
        data = {"title": "T", "writer": str(self.writer.pk), "scale": 5, "tags": ["x"]}
        pk = self.post("shop/atlas", data)["data"]["pk"]
        self.post(f"shop/book/{pk}/update", {"title": "U"})
        self.assertEqual(self.post(f"shop/atlas/{pk}/get")["data"]["title"], "U")
        self.assertEqual(self.post(f"shop/paperback/{pk}/get")["data"]["slug"], "u")
        self.post(f"shop/atlas/{self.book.pk}/get", status=404)


class FieldOptionsTests(LibraryTestCase):
    """Which fields are seen and written."""

    def test_fields_and_exclude_say_what_is_seen_and_written(self):
        rows = [
            ({"fields": ["title", "pages"]}, {"pk", "title", "pages"}),
            ({"fields": ["title", "pages"], "exclude": ["pages"]}, {"pk", "title"}),
            ({"fields": ["title"], "readonly_fields": ["title"]}, {"pk", "title"}),
        ]
        for attributes, shown in rows:
            with self.subTest(attributes=attributes):
                self.serve(Book, **({"exclude": ()} | attributes))
                self.assertEqual(self.update({}).keys(), shown)
                self.assertEqual([*self.refused({"copies": 1})], ["copies"])

    def test_properties_and_methods_are_shown_but_not_written(self):
        self.serve(
            Book,
            fields=["title", "shout", "sides"],
            shout=lambda self, record: record.title.upper(),
        )
        data = self.update({"title": "New", "shout": "x", "sides": 3})
        self.assertEqual(
            data, {"pk": self.book.pk, "title": "New", "sides": 400, "shout": "NEW"}
        )

    def test_readonly_fields_are_ignored_and_win(self):
        for name in ("readonly_fields", "immutable_fields"):
            with self.subTest(name=name):
                self.serve(
                    Book, fields="__all__", **{name: ["title", "tags", "sequels"]}
                )
                sent = {"title": "x", "tags": ["x"], "sequels": [self.book.pk]}
                data = self.update(sent)
                self.assertEqual(data["title"], "Solaris")
                self.assertEqual([tag["name"] for tag in data["tags"]], ["sea"])
                self.assertEqual(data["sequels"], [])
        self.serve(Book, fields=["title", "slug"], readonly_fields=["slug"])
        self.assertEqual(self.update({"slug": "x"})["slug"], "solaris")

    def test_what_is_not_editable_is_written_only_where_fields_names_it(self):
        self.update({"fixed": [self.other.pk]})
        self.assertEqual([*self.book.fixed.all()], [])
        self.serve(Book, fields="__all__", exclude=["internal"])
        self.update({"fixed": [self.other.pk]})
        self.assertEqual([*self.book.fixed.all()], [])
        self.serve(Book, fields=["title", "fixed"])
        self.update({"fixed": [self.other.pk]})
        self.assertEqual([*self.book.fixed.all()], [self.other])

    def test_a_user_model_shows_and_writes_little(self):
        clerk = Librarian.objects.create(card="c-1", password="hash")
        path = f"shop/librarian/{clerk.pk}"
        self.assertEqual(
            self.post(f"{path}/get")["data"], {"pk": clerk.pk, "card": "c-1"}
        )
        self.post(f"{path}/update", {"card": "c-2"}, status=403)
        User.objects.filter(pk=self.user.pk).update(is_superuser=True)
        for key in ("password", "is_admin", "last_login"):
            self.assertEqual([*self.errors(f"{path}/update", {key: "x"})], [key])
        self.assertEqual(
            self.post(f"{path}/update", {"card": "c-2"})["data"]["card"], "c-1"
        )
        self.serve(Librarian, fields=["card", "is_admin"])
        data = self.post(f"{path}/update", {"card": "c-2", "is_admin": True})["data"]
        self.assertEqual(data, {"pk": clerk.pk, "card": "c-2", "is_admin": True})

    def test_a_password_is_seen_and_written_only_where_fields_names_it(self):
        User.objects.filter(pk=self.user.pk).update(is_superuser=True)
        clerk = Librarian.objects.create(card="c-1", password="hash")
        path = f"shop/librarian/{clerk.pk}/update"
        self.serve(Librarian, fields="__all__")
        self.assertNotIn("password", self.post(path)["data"])
        self.errors(path, {"password": "x"})
        self.serve(Librarian, fields=["card", "password"])
        self.assertEqual(self.post(path, {"password": "x"})["data"]["password"], "x")

    def test_an_encoder_may_show_more_of_a_user_model(self):
        clerk = Librarian.objects.create(card="c-1")
        ajax.encoder.register(Librarian, ajax.IncludeEncoder(include=["is_admin"]))
        self.addCleanup(ajax.encoder.unregister, Librarian)
        data = self.post(f"shop/librarian/{clerk.pk}/get")["data"]
        self.assertEqual(data, {"pk": clerk.pk, "is_admin": False})

    def test_operations_lists_what_is_offered(self):
        self.serve(Book, operations=["get", "shout"], shout=lambda self, request: 1)
        path = f"shop/book/{self.book.pk}"
        self.post(f"{path}/get")
        self.post(f"{path}/shout")
        for name in (
            f"{path}/update",
            f"{path}/delete",
            "shop/book",
            f"{path}/tags/clear",
        ):
            with self.subTest(name=name):
                self.post(name, {"title": "x"}, status=404)


class PermissionTests(LibraryTestCase):
    """Who may write, and what is asked in which order."""

    def test_the_order_of_a_create_and_an_update(self):
        order = []

        def noted(name, result=None):
            return lambda *args, **kwargs: order.append(name) or result

        save = ajax.ModelEndpoint.save_record
        self.serve(
            Book,
            authenticate=noted("authenticate", True),
            prepare_record=noted("prepare"),
            can_create=lambda self, user, record: order.append("can") or True,
            can_update=lambda self, user, record, modified: order.append("can") or True,
            save_record=lambda self, *args: order.append("save") or save(self, *args),
        )
        for signal in (ajax.ajax_created, ajax.ajax_updated):
            self.receive(signal, noted("signal"))
        with mock.patch.object(Book, "clean", noted("clean")):
            for call in (self.create, self.update):
                order.clear()
                call({"title": call.__name__})
                steps = ["authenticate", "prepare", "can", "clean", "save", "signal"]
                self.assertEqual(order, steps)

    def test_nobody_learns_about_validation_who_may_not_write(self):
        no = {name: lambda self, *args: False for name in ("can_create", "can_update")}
        self.serve(Book, **no)
        bad = ({"pages": "x"}, {"nothing": 1}, {"writer": "x"}, {"title": ""}, {})
        for data in bad:
            with self.subTest(data=data):
                self.post("shop/book", data, status=403)
                self.post(f"shop/book/{self.book.pk}/update", data, status=403)
        self.assertEqual(self.update({"pages": "x"}, status=403)["code"], 403)

    def test_a_hook_that_fails_over_a_bad_value_is_a_refusal(self):
        def fail(self, *args):
            raise ZeroDivisionError

        for hook in ("prepare_record", "can_update"):
            with self.subTest(hook=hook):
                self.serve(Book, **{hook: fail})
                self.update({"pages": "x"}, status=403)
                self.update({"pages": 5}, status=500)

    def test_a_value_that_cannot_be_read_leaves_the_old_one_to_the_hooks(self):
        seen = []
        self.serve(
            Book,
            can_update=lambda self, user, record, modified: (
                seen.append(modified) or True
            ),
            can_create=lambda self, user, record: seen.append(record) or True,
        )
        self.refused({"pages": "x", "title": "New"})
        self.errors("shop/book", {"pages": "x", "title": "New"})
        found = [(record.pk, record.pages, record.title) for record in seen]
        self.assertEqual(found, [(self.book.pk, 200, "New"), (None, 100, "New")])

    def test_an_update_is_judged_by_the_stored_and_the_changed_record(self):
        seen = {}

        def can_update(self, user, record, modified):
            seen.update(user=user, pk=self.pk, path=self.request.path, model=self.model)
            seen["titles"] = [each.title for each in (self.record, record, modified)]
            seen["tags"] = [[*each.tags.names()] for each in (record, modified)]
            return True

        self.serve(Book, can_update=can_update)
        self.update({"title": "New", "tags": ["x"]})
        self.assertEqual(seen["titles"], ["Solaris", "Solaris", "New"])
        self.assertEqual(seen["tags"], [["sea"], ["sea"]])
        self.assertEqual((seen["user"], seen["model"]), (self.user, Book))
        self.assertEqual(str(seen["pk"]), str(self.book.pk))

    def test_the_old_signatures_of_hooks_work(self):
        self.serve(
            Book,
            can_create=lambda self, user: user.username == "ann",
            can_update=lambda self, user, record: record.title == "Solaris",
        )
        self.create()
        self.update({"title": "New"})
        self.update({"title": "Newer"}, status=403)
        self.post(f"shop/book/{self.book.pk}/tags/clear", status=403)
        self.client.force_login(self.other)
        self.create({"title": "Other"}, status=403)

    def test_records_outside_the_queryset_do_not_exist(self):
        self.serve(
            Book,
            get_queryset=lambda self, request: Book.objects.filter(copies=1),
            shout=lambda self, request: self.record.title,
        )
        Book.objects.update(copies=2)
        for operation in ("get", "update", "delete", "shout", "tags/clear"):
            with self.subTest(operation=operation):
                path = f"shop/book/{self.book.pk}/{operation}"
                message = self.post(path, {"x": 1}, status=404)["data"]["message"]
                self.assertEqual(
                    message, f'Book with id of "{self.book.pk}" not found.'
                )
        self.assertTrue(Book.objects.filter(pk=self.book.pk).exists())

    def test_what_is_written_out_of_sight_is_answered_by_its_pk(self):
        rows = {
            "get_queryset": lambda self, request: Book.objects.filter(copies=1),
            "can_get": lambda self, user, record: record.copies == 1,
        }
        for hook, function in rows.items():
            with self.subTest(hook=hook):
                self.serve(Book, **{hook: function})
                made = self.create({"copies": 2, "title": hook})
                self.assertEqual(made, {"pk": Book.objects.get(title=hook).pk})
                self.assertEqual(self.update({"copies": 2}), {"pk": self.book.pk})
                Book.objects.update(copies=1)

    def test_relations_are_chosen_from_what_the_client_may_see(self):
        hidden = Writer.objects.create(name="Hidden")
        rows = {
            "get_queryset": lambda self, request: Writer.objects.exclude(name="Hidden"),
            "can_get": lambda self, user, record: record.name != "Hidden",
        }
        for hook, function in rows.items():
            with self.subTest(hook=hook):
                kept = ajax.endpoint.find(Writer)
                self.serve(Writer, **{hook: function})
                nothing = self.refused({"writer": str(uuid.UUID(int=0))})
                refused = self.refused({"writer": str(hidden.pk)})
                zero = str(uuid.UUID(int=0))
                self.assertEqual(
                    str(refused).replace(str(hidden.pk), zero), str(nothing)
                )
                self.serve(Writer, **{hook: getattr(kept, hook)})
                self.assertEqual(
                    self.update({"writer": str(hidden.pk)})["writer"]["pk"],
                    str(hidden.pk),
                )
                Book.objects.update(writer=self.writer)

    def test_members_are_chosen_from_what_the_client_may_see(self):
        one, two = (Book.objects.create(title=t, writer=self.writer) for t in "ab")
        self.serve(Book, can_get=lambda self, user, record: record.title != "b")
        self.assertEqual([*self.refused({"sequels": [one.pk, two.pk]})], ["sequels"])
        self.assertEqual(self.update({"sequels": [one.pk]})["sequels"], [one.pk])

    def test_get_field_queryset_says_what_may_be_chosen(self):
        asked = []

        def get_field_queryset(self, request, field):
            asked.append((request.user.username, field.name))
            return field.related_model.objects.filter(name__startswith="L")

        names = ("Lec", "Mann")
        lec, mann = (Writer.objects.create(name=name) for name in names)
        self.serve(Book, get_field_queryset=get_field_queryset)
        self.assertEqual([*self.refused({"writer": str(mann.pk)})], ["writer"])
        self.update({"writer": str(lec.pk)})
        self.assertEqual(asked, [("ann", "writer")] * 2)
        Writer.objects.filter(pk=self.retired.pk).update(name="Late")
        self.assertEqual([*self.refused({"writer": str(self.retired.pk)})], ["writer"])

    def test_require_permissions_wants_those_of_django(self):
        self.serve(Book, require_permissions=True)
        path = f"shop/book/{self.book.pk}"
        calls = [
            ("shop/book", {"title": "x", "writer": str(self.writer.pk)}, "add_book"),
            (f"{path}/update", {"title": "y"}, "change_book"),
            (f"{path}/delete", {}, "delete_book"),
        ]
        self.post(f"{path}/get")
        for url, data, codename in calls:
            with self.subTest(url=url):
                self.post(url, data, status=403)
                permission = Permission.objects.get(codename=codename)
                self.user.user_permissions.add(permission)
                self.post(url, data)

    def test_delete_asks_about_the_stored_record(self):
        self.serve(Book, can_delete=lambda self, user, record: record.pages == 1)
        path = f"shop/book/{self.book.pk}/delete"
        self.post(path, status=403)
        Book.objects.update(pages=1)
        self.assertEqual(self.post(path)["data"], {"pk": self.book.pk})
        self.post(path, status=404)

    def test_custom_operations_are_the_public_methods_of_the_endpoint(self):
        class Mixin:
            def mixed(self, request):
                return "no"

        class Base(BookEndpoint):
            def lend(self, request, weeks=2, *args, **kwargs):
                return {"of": self.record and self.record.title, "weeks": weeks}

            def _hidden(self, request):
                return "no"

            def helper(self, value):
                return "no"

            def wants_more(self, request, more):
                return "no"

            @property
            def shelf(self):
                return "no"

        ajax.endpoint.unregister(Book)
        ajax.endpoint.register(Book, type("Served", (Mixin, Base), {}))
        self.addCleanup(ajax.endpoint.register, Book, BookEndpoint)
        self.addCleanup(ajax.endpoint.unregister, Book)
        record = f"shop/book/{self.book.pk}"
        data = self.post(f"{record}/lend")["data"]
        self.assertEqual(data, {"of": "Solaris", "weeks": 2})
        self.assertIsNone(self.post("shop/book/lend")["data"]["of"])
        for name in (
            "mixed",
            "_hidden",
            "helper",
            "wants_more",
            "shelf",
            "can_get",
            "get_queryset",
            "for_model",
            "save_record",
            "resolve",
            "run",
            "authorize",
            "user",
            "tags",
            "__init__",
            "find_operation",
        ):
            with self.subTest(name=name):
                self.post(f"{record}/{name}", status=404)
                self.post(f"shop/book/{name}", status=404)

    def test_a_custom_operation_runs_only_on_a_record_that_may_be_seen(self):
        ran = []
        self.serve(
            Book,
            can_get=lambda self, user, record: False,
            lend=lambda self, request: ran.append(self.record),
        )
        self.post(f"shop/book/{self.book.pk}/lend", status=403)
        self.post("shop/book/0/lend", status=404)
        self.post("shop/book/x/lend", status=404)
        self.assertEqual(ran, [])


class WritingTests(LibraryTestCase):
    """Validation, and how a write is done."""

    def gone(self, *args):
        """A hook during which somebody else deletes the record."""
        Book.keepers.through.objects.all().delete()
        Book.objects.filter(pk=self.book.pk).delete()
        return True

    def test_create_validates_everything(self):
        rows = [
            ({"title": ""}, {"title"}),
            ({"title": "x" * 41, "pages": -1}, {"title", "pages"}),
            ({"writer": None, "price": "x"}, {"writer", "price"}),
            ({"title": "Solaris"}, {"__all__"}),
            ({"pages": 1, "copies": 2}, {"__all__"}),
        ]
        for data, keys in rows:
            with self.subTest(data=data):
                data = {"title": "T", "writer": str(self.writer.pk)} | data
                self.assertEqual(self.errors("shop/book", data).keys(), keys)
        self.assertEqual(self.errors("shop/book").keys(), {"title", "writer"})
        self.assertEqual(Book.objects.count(), 1)

    def test_create_runs_the_full_clean_of_the_model(self):
        error = ValidationError({"title": "Not now."})
        with mock.patch.object(Book, "full_clean", side_effect=error):
            errors = self.errors(
                "shop/book", {"title": "T", "writer": str(self.writer.pk)}
            )
        self.assertEqual(errors, {"title": ["Not now."]})

    def test_update_validates_what_changed_and_then_the_whole(self):
        Book.objects.update(price=-1, internal="", note="x" * 40, writer=self.retired)
        self.assertEqual(self.update({"pages": 7})["pages"], 7)
        Book.objects.create(title="Eden", writer=self.retired)
        rows = [{"title": "Eden"}, {"pages": 0}, {"copies": 8}]
        for data in rows:
            with self.subTest(data=data):
                self.assertEqual([*self.refused(data)], ["__all__"])

    def test_an_error_about_a_hidden_field_is_one_about_the_record(self):
        errors = self.refused({"title": "Untitled"})
        self.assertEqual(
            errors, {"title": ["Name it."], "__all__": ["Ask the office."]}
        )
        self.serve(Book, fields=["pages"])
        self.assertEqual([*self.errors("shop/book", {"pages": 1})], ["__all__"])

    def test_prepare_record_comes_before_validation(self):
        def prepare_record(self, request, record, created):
            record.note = f"{request.user} {created}"
            record.title = record.title or "Untitled yet"

        self.serve(Book, prepare_record=prepare_record, readonly_fields=["note"])
        made = self.create({"title": "", "note": "x"})
        self.assertEqual((made["title"], made["note"]), ("Untitled yet", "ann True"))
        self.assertEqual(self.update({})["note"], "ann False")

    def test_nothing_is_saved_if_nothing_changed(self):
        before = self.stored().changed
        saved = []
        save = ajax.ModelEndpoint.save_record
        self.serve(
            Book, save_record=lambda self, *args: saved.append(1) or save(self, *args)
        )
        record = self.post(f"shop/book/{self.book.pk}/get")["data"]
        for data in ({}, {"pages": "200"}, {"price": "5.0"}, {"tags": "sea"}, record):
            self.update(data)
        self.assertEqual((self.stored().changed, saved), (before, []))
        self.update({"pages": 201})
        self.assertEqual(saved, [1])

    def test_an_update_does_not_undo_what_others_wrote_before_the_lock(self):
        def authenticate(self, request, application, method):
            assert self.record.copies == 1
            Book.objects.update(copies=7, internal="meanwhile")
            return True

        self.serve(Book, authenticate=authenticate)
        self.assertEqual(self.update({"title": "New"})["copies"], 7)
        stored = self.stored()
        self.assertEqual((stored.internal, stored.slug), ("meanwhile", "new"))
        atlas = Atlas.objects.create(title="A", writer=self.writer, scale=1)
        self.serve(Atlas, authenticate=authenticate)
        data = self.post(f"shop/atlas/{atlas.pk}/update", {"scale": 2})["data"]
        self.assertEqual((data["scale"], data["copies"]), (2, 7))

    def test_the_answer_is_what_the_database_then_holds(self):
        data = self.create({"price": "3.5", "pages": 12})
        self.assertEqual(
            (data["price"], data["sides"], data["slug"]), ("3.50", 24, "eden")
        )
        self.assertEqual(self.post(f"shop/book/{data['pk']}/get")["data"], data)
        self.serve(Book, save_record=lambda self, *args: Book.objects.update(pages=9))
        self.assertEqual(self.update({"pages": 8})["pages"], 9)

    def test_save_record_and_delete_record_do_the_writing(self):
        def save_record(self, request, record, created):
            record.note = f"saved {created}"
            record.save()

        def delete_record(self, request, record):
            Book.objects.filter(pk=record.pk).update(note="in the attic")

        self.serve(Book, save_record=save_record, delete_record=delete_record)
        self.assertEqual(self.create()["note"], "saved True")
        self.assertEqual(self.update({"pages": 9})["note"], "saved False")
        self.post(f"shop/book/{self.book.pk}/delete")
        self.assertEqual(self.stored().note, "in the attic")

    def test_a_record_that_goes_before_it_is_locked_is_not_found(self):
        rows = [
            ("update", {"title": "x"}),
            ("update", {"tags": ["x"]}),
            ("delete", {}),
            ("tags/add", {"tags": "x"}),
        ]
        self.serve(Book, authenticate=self.gone)
        for operation, data in rows:
            with self.subTest(operation=operation, data=data):
                path = f"shop/book/{self.book.pk}/{operation}"
                self.post(path, data, status=404)
                self.book.save(force_insert=True)

    def test_what_is_in_use_is_not_deleted(self):
        self.book.shelf = self.shelf
        self.book.save()
        for path in (f"shop/writer/{self.writer.pk}/delete", "shop/shelf/a-1/delete"):
            with self.subTest(path=path):
                message = self.post(path, status=409)["data"]["message"]
                self.assertNotIn("book", message.lower())
        self.assertEqual(self.stored().shelf, self.shelf)

    def test_a_duplicate_that_only_the_database_sees_is_a_conflict(self):
        def save_record(self, request, record, created):
            record.title = "Solaris"
            record.save()

        self.serve(Book, save_record=save_record)
        with self.assertLogs("django.request"):
            message = self.create({}, status=409)["message"]
        self.assertNotRegex(message.lower(), "unique|constraint|book|solaris")
        with mock.patch.object(Shelf, "validate_unique"):
            self.post("shop/shelf", {"code": "a-1", "room": "taken"}, status=409)
        self.assertEqual(Shelf.objects.get(pk="a-1").room, "")

    def test_a_write_is_one_transaction_with_its_signal_inside(self):
        def refuse(instance, request, **kwargs):
            names = [*instance.tags.names()]
            raise ajax.AJAXError(418, f"{request.user} {instance.title} {names}")

        for signal in (ajax.ajax_created, ajax.ajax_updated):
            self.receive(signal, refuse)
        data = {"title": "New", "tags": ["x"], "sequels": [self.book.pk]}
        self.assertEqual(self.update(data, status=418)["message"], "ann New ['x']")
        self.assertEqual(self.create(data, status=418)["message"], "ann New ['x']")
        stored = self.stored()
        self.assertEqual((stored.title, [*stored.tags.names()]), ("Solaris", ["sea"]))
        self.assertEqual(stored.sequels.count(), 0)
        self.assertEqual(Book.objects.count(), 1)

    def test_ajax_deleted_carries_the_payload(self):
        sent = []

        def refuse(sender, payload, instance, request, **kwargs):
            sent.append((sender, payload, instance.title, request.user))
            if len(sent) == 1:
                raise IntegrityError

        self.receive(ajax.ajax_deleted, refuse)
        path = f"shop/book/{self.book.pk}/delete"
        self.post(path, status=409)
        self.assertTrue(Book.objects.filter(pk=self.book.pk).exists())
        self.post(path)
        expected = (Book, {"pk": self.book.pk}, "Solaris", self.user)
        self.assertEqual(sent, [expected] * 2)

    def test_a_write_is_one_transaction_that_locks_first(self):
        modes, atomic = [], transaction.atomic

        def begin(**options):
            modes.append(connection.transaction_mode)
            return atomic(**options)

        book = f"shop/book/{self.book.pk}"
        calls = [
            ("shop/shelf", {"code": "z"}),
            ("shop/bookform", {"title": "F", "writer": str(self.writer.pk)}),
            (f"{book}/update", {"title": "N"}),
            (f"{book}/update", {"sequels": []}),
            (f"{book}/tags/clear", {}),
            (f"{book}/delete", {}),
        ]
        self.serve(Book, get_queryset=lambda self, request: Book.objects.distinct())
        mode = vars(connection).get("transaction_mode")
        for path, sent in calls:
            with (
                self.subTest(path=path, sent=sent),
                CaptureQueriesContext(connection) as context,
                mock.patch.object(ajax.transaction, "atomic", begin),
            ):
                self.client.post(f"/ajax/{path}.json", sent)
            self.assertEqual(modes.pop(0), "IMMEDIATE")
            modes.clear()
            self.assertEqual(vars(connection).get("transaction_mode"), mode)
            statements = [query["sql"] for query in context]
            start = [sql.startswith("SAVEPOINT") for sql in statements].index(True)
            if book in path and connection.features.has_select_for_update:
                self.assertIn("FOR UPDATE", statements[start + 1])

    def test_a_model_that_saves_in_its_own_way_never_overwrites(self):
        def save(record):
            models.Model.save(record)
            models.Model.save(record)

        with (
            mock.patch.object(Shelf, "save", save),
            mock.patch.object(Shelf, "validate_unique"),
        ):
            self.post("shop/shelf", {"code": "a-1", "room": "taken"}, status=409)
            self.post("shop/shelf", {"code": "b-2", "room": "free"})
        self.assertEqual(Shelf.objects.get(pk="a-1").room, "")
        self.assertEqual(Shelf.objects.get(pk="b-2").room, "free")

    def test_can_update_takes_the_changed_record_as_it_likes(self):
        seen = []

        def by_keyword(self, user, record, *, modified):
            seen.append(modified.title)
            return True

        def by_any_keyword(self, user, record, **kwargs):
            seen.append(kwargs["modified"].title)
            return True

        def by_position(self, user, *records):
            seen.append(records[1].title)
            return True

        for can_update in (by_keyword, by_any_keyword, by_position):
            self.serve(Book, can_update=can_update)
            self.update({"title": can_update.__name__})
        self.assertEqual(seen, ["by_keyword", "by_any_keyword", "by_position"])


class FormTests(LibraryTestCase):
    def test_a_model_form_saves_and_answers_the_record(self):
        data = {"title": "Eden", "writer": str(self.writer.pk), "pages": 9, "copies": 1}
        for form in (False, True):
            made = self.post("shop/bookform", data | {"title": f"E{form}"}, form=form)
            self.assertEqual(
                (made["data"]["note"], made["data"]["sides"]), ("by ann", 18)
            )
            self.assertNotIn("internal", made["data"])
        errors = self.errors("shop/bookform", data | {"title": "Solaris", "pages": "x"})
        self.assertEqual([*errors], ["pages", "__all__"])
        self.assertEqual(
            [*self.errors("shop/bookform", data | {"copies": 10})], ["__all__"]
        )
        self.client.logout()
        self.assertIn("login_url", self.post("shop/bookform", data, status=403))

    def test_a_form_without_save_answers_its_cleaned_data(self):
        sent = {"day": "2024-05-06", "hours": ["am", "pm"], "quiet": True, "seats": 5}
        shown = sent | {"plan": None}
        self.assertEqual(self.post("shop/openingform", sent)["data"], shown)
        plan = SimpleUploadedFile("p.txt", b"x")
        data = self.post("shop/openingform", sent | {"plan": plan}, form=True)["data"]
        self.assertEqual(data, shown | {"plan": "p.txt"})

    def test_values_of_another_type_are_errors_of_the_form(self):
        good = {"day": "2024-05-06", "hours": ["am"], "quiet": None}
        values = [
            5,
            1.5,
            True,
            {},
            {"a": 1},
            [[1]],
            [{}],
            [None],
            10**400,
        ]
        for key in ("day", "hours"):
            for value in values:
                with self.subTest(key=key, value=str(value)[:20]):
                    self.errors("shop/openingform", good | {key: value})
        for value in ("x", True, {"a": 1}):
            self.errors("shop/openingform", good | {"seats": value})
        for key in ("quiet", "plan"):
            self.post("shop/openingform", good | {key: {}})
        self.post("shop/openingform", ["day"], status=400)


class ConcurrencyTests(TransactionTestCase):
    """Many threads on one database; on SQLite, a file with the default settings."""

    THREADS, ROUNDS = 8, 4
    serve = LibraryTestCase.serve

    def setUp(self):
        self.user = User.objects.create_user("ann")
        self.writer = Writer.objects.create(name="Lem")
        self.shared = self.book("Shared")
        self.own = [self.book(f"Own {n}") for n in range(self.THREADS)]
        client = Client()
        client.force_login(self.user)
        self.cookies = client.cookies
        self.bad, self.found = [], []

    def book(self, title):
        return Book.objects.create(title=title, writer=self.writer, pages=1000)

    @contextlib.contextmanager
    def shared_database(self):
        """Let new threads find the test database; one in memory is copied to a file."""
        if connection.vendor != "sqlite":
            yield
            return
        with tempfile.TemporaryDirectory() as folder:
            name = os.path.join(folder, "test.sqlite3")
            with contextlib.closing(sqlite3.connect(name)) as copied:
                connection.ensure_connection()
                connection.connection.backup(copied)
            options = {**connections.settings["default"], "NAME": name}
            with mock.patch.dict(connections.settings, {"default": options}):
                yield

    def in_threads(self, *calls):
        def run(call):
            try:
                call()
            except Exception as error:
                self.bad.append(repr(error))
            finally:
                connections.close_all()

        threads = [threading.Thread(target=run, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def post(self, path, data):
        client = Client(raise_request_exception=False)
        client.cookies.update(self.cookies)
        path = f"/ajax/shop/{path}.json"
        response = client.post(path, data, content_type="application/json")
        if response.status_code != 200:
            self.bad.append((path, response.status_code, response.content))
        return response.json()["data"]

    def work(self, number):
        """Write to the shared book, to one of this thread, and to new ones."""
        column, base = [("pages", 900), ("copies", 0), ("note", 0), ("price", 0)][
            number % 4
        ]
        for turn in range(1, self.ROUNDS + 1):
            self.post(f"book/{self.shared.pk}/update", {column: base + turn})
            self.post(f"book/{self.shared.pk}/tags/add", {"tags": f"t-{number}-{turn}"})
            new = {
                "title": f"{number}-{turn}",
                "writer": str(self.writer.pk),
                "tags": [f"n-{turn}", "all"],
                "sequels": [self.shared.pk],
            }
            made = self.post("book", new)
            self.post(f"book/{self.own[number].pk}/update", {"sequels": [made["pk"]]})
            self.post("book/list", {})
            if turn % 2:
                self.post(f"book/{made['pk']}/delete", {})

    def check(self):
        shared = Book.objects.get(pk=self.shared.pk)
        last = self.ROUNDS
        found = (shared.pages, shared.copies, shared.note, shared.price)
        self.found = [found == (900 + last, last, str(last), last), shared.tags.count()]
        made = Book.objects.filter(sequels=shared)
        self.found.append(sum(book.tags.count() for book in made))
        self.found.append(sum(book.sequels.count() for book in self.own))

    def test_concurrent_writers_wait_for_each_other_and_lose_nothing(self):
        numbers = range(self.THREADS)
        with self.shared_database():
            self.in_threads(*(lambda n=n: self.work(n) for n in numbers))
            self.in_threads(self.check)
        self.assertEqual(self.bad, [])
        writes = self.THREADS * self.ROUNDS
        self.assertEqual(self.found, [True, writes, writes, self.THREADS])

    def test_a_parent_and_its_child_are_written_in_turn(self):
        atlas = Atlas.objects.create(title="A", writer=self.writer, scale=1)
        parent = f"book/{atlas.pk}/update"
        other = threading.Thread(
            target=lambda: self.in_threads(lambda: self.post(parent, {"copies": 7}))
        )

        def save_record(self, request, record, created):
            other.start()
            other.join(0.5)
            record.save()

        self.serve(Atlas, save_record=save_record)
        with self.shared_database():
            self.in_threads(lambda: self.post(f"atlas/{atlas.pk}/update", {"scale": 2}))
            other.join()
            self.in_threads(lambda: self.found.append(Atlas.objects.get(pk=atlas.pk)))
        self.assertEqual(self.bad, [])
        self.assertEqual([(a.scale, a.copies) for a in self.found], [(2, 7)])


# --- Models and endpoints for encoding, lists and tags: music -------------------------


class Artist(models.Model):
    name = models.CharField(max_length=100)
    notes = models.TextField(blank=True)

    @property
    def initial(self):
        return self.name[:1]

    def shout(self):
        return self.name.upper()


class Label(models.Model):
    """A label that only its endpoint's `get_queryset` lets be seen."""

    code = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    is_public = models.BooleanField(default=True)


class Agent(models.Model):
    """Somebody whom only `can_get` lets be seen."""

    name = models.CharField(max_length=100)
    is_private = models.BooleanField(default=False)
    tags = TaggableManager(blank=True)


class ActiveProducers(models.Manager):
    def get_queryset(self):
        return super().get_queryset().filter(retired=False)


class Producer(models.Model):
    name = models.CharField(max_length=100)
    retired = models.BooleanField(default=False)

    objects = ActiveProducers()
    everybody = models.Manager()


class Album(models.Model):
    artist = models.ForeignKey(Artist, models.CASCADE)
    title = models.CharField(max_length=100)
    label = models.ForeignKey(Label, models.CASCADE, null=True, blank=True)
    sold_by = models.ForeignKey(
        Label, models.CASCADE, to_field="code", null=True, related_name="sells"
    )
    agent = models.OneToOneField(Agent, models.CASCADE, null=True)
    producer = models.ForeignKey(Producer, models.CASCADE, null=True)


class MoodItem(TaggedItemBase):
    content_object = models.ForeignKey("shop.Track", models.CASCADE)


class Track(models.Model):
    album = models.ForeignKey(Album, models.CASCADE, related_name="tracks")
    title = models.CharField(max_length=100)
    plays = models.BigIntegerField(default=0)
    released = models.DateTimeField(null=True)
    price = models.DecimalField(max_digits=6, decimal_places=2, default=1)
    remix_of = models.ForeignKey("self", models.CASCADE, null=True)
    guests = models.ManyToManyField(Artist, blank=True)
    tags = TaggableManager(blank=True)
    moods = TaggableManager(through=MoodItem, blank=True, related_name="mood_tracks")


class LiveTrack(Track):
    venue = models.CharField(max_length=100)


class Maker(models.Model):
    code = models.SlugField(unique=True)


class Award(models.Model):
    number = models.PositiveIntegerField(primary_key=True)
    title = models.CharField(max_length=100)

    class Meta:
        ordering = ["-title"]


class Prize(models.Model):
    award = models.OneToOneField(Award, models.CASCADE, primary_key=True)


class Pressing(models.Model):
    """Keys that no database constraint guards."""

    copies = models.IntegerField(default=1)
    artist = models.ForeignKey(Artist, models.DO_NOTHING, db_constraint=False)
    depot = models.ForeignKey(
        Category, models.DO_NOTHING, db_constraint=False, null=True
    )
    maker = models.ForeignKey(
        "shop.Maker", models.DO_NOTHING, to_field="code", db_constraint=False
    )


class PlaylistItem(GenericUUIDTaggedItemBase, TaggedItemBase):
    pass


class GenreItem(CommonGenericTaggedItemBase, TaggedItemBase):
    object_id = models.CharField(max_length=50, db_index=True)


class Band(models.Model):
    code = models.SlugField(unique=True)
    members = models.ManyToManyField(Artist, through="shop.Membership")


class Membership(models.Model):
    band = models.ForeignKey(Band, models.CASCADE, to_field="code")
    artist = models.ForeignKey(Artist, models.CASCADE)


class Playlist(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=100)
    artists = models.ManyToManyField(Artist)
    tags = TaggableManager(through=PlaylistItem)


class Genre(models.Model):
    slug = models.SlugField(primary_key=True)
    tags = TaggableManager(through=GenreItem)


class Score(models.Model):
    """One column of each kind."""

    amount = models.DecimalField(max_digits=10, decimal_places=2, null=True)
    count = models.BigIntegerField(null=True)
    level = models.FloatField(null=True)
    day = models.DateField(null=True)
    moment = models.DateTimeField(null=True)
    hour = models.TimeField(null=True)
    span = models.DurationField(null=True)
    sheet = models.FileField(upload_to="sheets", blank=True)
    raw = models.BinaryField(null=True, editable=False)
    extra = models.JSONField(null=True)
    ident = models.UUIDField(null=True)
    address = models.GenericIPAddressField(null=True)
    is_final = models.BooleanField(null=True)
    text = models.TextField(blank=True)


class Royalty(models.Model):
    """What the database fills in."""

    count = models.IntegerField()
    doubled = models.GeneratedField(
        expression=models.F("count") * 2,
        output_field=models.IntegerField(),
        db_persist=True,
    )
    shelf = models.IntegerField(db_default=7)


class Named(models.Model):
    name = models.CharField(max_length=100)

    class Meta:
        abstract = True


class NamedByInit(Named):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.name = self.name.upper()


class NamedByFromDb(Named):
    @classmethod
    def from_db(cls, *args, **options):
        record = super().from_db(*args, **options)
        record.name = record.name.upper()
        return record


class NamedByListener(Named):
    pass


class NamedBy(Named):
    init = models.ForeignKey(NamedByInit, models.CASCADE)
    from_row = models.ForeignKey(NamedByFromDb, models.CASCADE)
    listener = models.ForeignKey(NamedByListener, models.CASCADE)


def _place(name, within=None):
    """Make a model that lies within another: Stage, Venue, Town and so on."""
    fields = {"name": models.CharField(max_length=100), "__module__": __name__}
    if within:
        fields["within"] = models.ForeignKey(within, models.CASCADE)
    return type(name, (models.Model,), fields)


PLACES = []
for _name in ("Planet", "Continent", "Nation", "County", "Town", "Venue", "Stage"):
    PLACES.append(_place(_name, *PLACES[-1:]))


def _many_keys(name, **options):
    """Make a model of more foreign keys than SQLite can join."""
    keys = {f"channel_{number}": options for number in range(70)}
    fields = {
        key: models.ForeignKey(on_delete=models.CASCADE, related_name="+", **options)
        for key, options in keys.items()
    }
    return type(name, (models.Model,), fields | {"__module__": __name__})


Mixer = _many_keys("Mixer", to=Artist)
Patch = _many_keys("Patch", to=Maker, to_field="code")
ajax.endpoint.register(
    [Band, Genre, Mixer, NamedBy, Patch, Pressing, Royalty, Score, *PLACES]
)


class OpenEndpoint(ajax.ModelEndpoint):
    def can_list(self, user):
        return True


ajax.endpoint.register([Award, LiveTrack, Playlist, Prize, Producer], OpenEndpoint)
ajax.endpoint.register([NamedByInit, NamedByFromDb, NamedByListener], OpenEndpoint)


@ajax.register(Artist)
class ArtistEndpoint(OpenEndpoint):
    fields = ["name", "initial", "shout", "greeting", "kind"]
    kind = "artist"

    def greeting(self, record):
        return f"Hello {record.name}"


@ajax.register(Label)
class LabelEndpoint(OpenEndpoint):
    def get_queryset(self, request):
        return super().get_queryset(request).filter(is_public=True)


@ajax.register(Agent)
class AgentEndpoint(OpenEndpoint):
    exclude = ["is_private"]
    ordering = ["name"]

    def can_get(self, user, record):
        return not record.is_private


@ajax.register(Album)
class AlbumEndpoint(OpenEndpoint):
    list_filter = ["tracks", "tracks__title", "label", "label__code"]
    search_fields = ["title", "tracks__title"]
    sortable_by = ["title"]


@ajax.register(Track)
class TrackEndpoint(OpenEndpoint):
    sortable_by = ["title", "plays", "album__title"]
    search_fields = ["title", "^album__title", "guests__name"]
    list_filter = [
        "album", "album__in", "guests", "guests__name", "plays", "plays__gte",
        "plays__in", "title", "title__in", "title__icontains",
        "released", "released__gte", "released__year", "remix_of",
        "remix_of__isnull", "price__lte",
    ]  # fmt: skip
    list_per_page = 3

    def can_update(self, user, record, modified):
        return record.title != "Locked"


class MusicTestCase(AjaxTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.artist = Artist.objects.create(name="Nina", notes="private")
        cls.guest = Artist.objects.create(name="Otis")
        cls.label = Label.objects.create(code="blue", name="Blue")
        cls.album = Album.objects.create(artist=cls.artist, title="Live")
        cls.track = Track.objects.create(album=cls.album, title="One")
        cls.shown_artist = {
            "pk": cls.artist.pk, "name": "Nina", "initial": "N", "shout": "NINA",
            "greeting": "Hello Nina", "kind": "artist",
        }  # fmt: skip

    def record(self, record):
        return self.post(f"shop/{record._meta.model_name}/{record.pk}/get")["data"]

    def speak(self, model, encoder):
        """Let an encoder speak for a model until the test is over."""
        ajax.encoder.register(model, encoder)
        self.addCleanup(ajax.encoder.unregister, model)

    def serve(self, model, **options):
        """Register a model's endpoint with other options until the test is over."""
        old = ajax.endpoint.find(model)
        ajax.endpoint.unregister(model)
        ajax.endpoint.register(model, type("Endpoint", (old,), options))
        self.addCleanup(ajax.endpoint.register, model, old)
        self.addCleanup(ajax.endpoint.unregister, model)


# --- Encoding a record ----------------------------------------------------------------


class RelationTests(MusicTestCase):
    def test_pk_comes_first_then_the_fields_in_model_order(self):
        self.assertEqual(
            [*self.record(self.track)],
            ["pk", "album", "title", "plays", "released", "price", "remix_of", "guests"]
            + ["tags", "moods"],
        )

    def test_inherited_fields_are_shown_and_the_parent_link_is_not(self):
        live = LiveTrack.objects.create(album=self.album, title="Two", venue="Hall")
        live.guests.add(self.guest)
        data = self.record(live)
        self.assertEqual(
            (data["pk"], data["title"], data["venue"]), (live.pk, "Two", "Hall")
        )
        self.assertEqual(data["guests"], [self.guest.pk])
        self.assertNotIn("track_ptr", data)
        self.assertNotIn("id", data)

    def test_what_a_model_looks_like_holds_where_it_is_expanded(self):
        self.assertEqual(self.record(self.artist), self.shown_artist)
        self.assertEqual(self.record(self.track)["album"]["artist"], self.shown_artist)

    def test_a_relation_back_to_a_model_on_the_path_is_its_pk(self):
        remix = Track.objects.create(
            album=self.album, title="Remix", remix_of=self.track
        )
        self.assertEqual(self.record(remix)["remix_of"], self.track.pk)

    def test_five_levels_are_expanded_at_most(self):
        record = None
        for model in PLACES:
            record = model.objects.create(
                name=model.__name__, **({"within": record} if record else {})
            )
        data, levels = self.record(record), 0
        while isinstance(data.get("within"), dict):
            data, levels = data["within"], levels + 1
        self.assertEqual((levels, data["name"]), (5, "Continent"))
        self.assertEqual(data["within"], PLACES[0].objects.get().pk)

    def test_expand_is_true_a_number_names_or_false(self):
        Album.objects.update(label=self.label)
        album = {"pk": self.album.pk, "title": "Live"}
        whole = self.shown_artist
        label = {"pk": self.label.pk, "code": "blue", "name": "Blue", "is_public": True}
        for expand, artist, of_label in (
            (True, whole, label),
            (2, whole, label),
            (1, self.artist.pk, self.label.pk),
            (["album"], self.artist.pk, self.label.pk),
            (["album__artist"], whole, self.label.pk),
            (["album__artist", "album__label"], whole, label),
        ):
            with self.subTest(expand=expand):
                self.serve(Track, expand=expand)
                data = self.record(self.track)["album"]
                self.assertEqual(data | album, data)
                self.assertEqual((data["artist"], data["label"]), (artist, of_label))
                self.doCleanups()
        for expand in (False, 0, [], ["remix_of"]):
            with self.subTest(expand=expand):
                self.serve(Track, expand=expand)
                self.assertEqual(self.record(self.track)["album"], self.album.pk)
                self.doCleanups()

    def test_a_relation_that_is_the_pk_is_shown_as_both(self):
        award = Award.objects.create(number=7, title="Gold")
        data = self.record(Prize.objects.create(award=award))
        self.assertEqual(data, {"pk": 7, "award": {"pk": 7, "title": "Gold"}})

    def test_a_pk_beyond_its_column_is_not_found(self):
        for operation in ("get", "update", "delete"):
            for path in ("award/-1", f"award/{2**62}", "prize/-1"):
                with self.subTest(operation, path=path):
                    self.post(f"shop/{path}/{operation}", status=404)

    def test_a_null_key_is_null(self):
        data = self.record(self.album)
        names = ("label", "sold_by", "agent", "producer")
        self.assertEqual([data[name] for name in names], [None] * 4)

    def test_a_key_to_another_field_shows_the_record_or_its_pk(self):
        Album.objects.update(sold_by=self.label)
        self.assertEqual(self.record(self.album)["sold_by"]["name"], "Blue")
        self.serve(Album, expand=False)
        self.assertEqual(self.record(self.album)["sold_by"], self.label.pk)

    def test_a_dangling_key_without_constraint_is_null(self):
        Maker.objects.create(code="blue")
        fine = {"artist_id": self.artist.pk, "maker_id": "blue"}
        for name, key in (("artist", -1), ("depot", -1), ("maker", "none")):
            with self.subTest(name):
                keys = fine | {f"{name}_id": key}
                pressing = Pressing.objects.create(**keys)
                data = self.record(pressing)
                self.assertEqual(data["copies"], 1)
                self.assertIsNone(data[name])

    def test_what_is_outside_get_queryset_is_shown_as_its_pk(self):
        hidden = Label.objects.create(code="dark", name="Dark", is_public=False)
        Album.objects.update(label=hidden, sold_by=hidden)
        data = self.record(self.album)
        self.assertEqual((data["label"], data["sold_by"]), (hidden.pk, hidden.pk))
        self.assertEqual(self.record(self.track)["album"]["label"], hidden.pk)

    def test_what_can_get_refuses_is_shown_as_its_pk(self):
        agent = Agent.objects.create(name="Sid")
        Album.objects.update(agent=agent)
        shown = {"pk": agent.pk, "name": "Sid", "tags": []}
        self.assertEqual(self.record(self.track)["album"]["agent"], shown)
        Agent.objects.update(is_private=True)
        self.assertEqual(self.record(self.track)["album"]["agent"], agent.pk)

    def test_what_the_default_manager_leaves_out_is_shown_as_its_pk(self):
        producer = Producer.objects.create(name="Phil", retired=True)
        Album.objects.update(producer=producer)
        self.assertEqual(self.record(self.album)["producer"], producer.pk)
        Producer.everybody.update(retired=False)
        self.assertEqual(self.record(self.album)["producer"]["name"], "Phil")

    def test_many_to_many_is_a_list_of_pks(self):
        self.track.guests.add(self.guest, self.artist)
        self.assertCountEqual(
            self.record(self.track)["guests"], [self.artist.pk, self.guest.pk]
        )

    def test_many_to_many_through_a_key_to_another_field(self):
        band = Band.objects.create(code="trio")
        Membership.objects.create(band=band, artist=self.guest)
        self.assertEqual(self.record(band)["members"], [self.guest.pk])

    def test_a_method_that_shows_a_record_is_no_operation(self):
        for name in ("greeting", "shout", "kind", "initial"):
            self.post(f"shop/artist/{self.artist.pk}/{name}", status=404)

    def test_own_constructors_of_a_model_are_heard_wherever_it_appears(self):
        def listen(sender, instance, **kwargs):
            instance.name = instance.name.upper()

        post_init.connect(listen, NamedByListener)
        self.addCleanup(post_init.disconnect, listen, NamedByListener)
        kinds = (NamedByInit, NamedByFromDb, NamedByListener)
        made = [kind.objects.create(name="low") for kind in kinds]
        for kind in kinds:
            kind.objects.update(name="low")
        for record in made:
            with self.subTest(type(record).__name__):
                self.assertEqual(self.record(record)["name"], "LOW")
                found = self.post(f"shop/{record._meta.model_name}/list")["data"]
                self.assertEqual([each["name"] for each in found], ["LOW"])
        data = self.record(NamedBy.objects.create(
            name="low", init=made[0], from_row=made[1], listener=made[2]
        ))  # fmt: skip
        shown = {data[name]["name"] for name in ("init", "from_row", "listener")}
        self.assertEqual((data["name"], shown), ("low", {"LOW"}))


class ValueTests(MusicTestCase):
    def test_each_kind_of_value(self):
        utc, half = datetime.timezone.utc, datetime.timedelta(hours=5, minutes=30)
        east = datetime.timezone(half)
        ident = uuid.uuid4()
        for name, value, shown in (
            ("amount", Decimal("9.50"), "9.50"),
            ("count", 2**53 - 1, 2**53 - 1),
            ("count", 2**53, str(2**53)),
            ("count", -(2**53) + 1, -(2**53) + 1),
            ("count", -(2**62), str(-(2**62))),
            ("level", 0.5, 0.5),
            ("level", float("inf"), None),
            ("day", datetime.date(2024, 2, 29), "2024-02-29"),
            ("moment", datetime.datetime(2024, 1, 2, 3, 4, 5, 6, utc),
             "2024-01-02T03:04:05.000006Z"),
            ("moment", datetime.datetime(2024, 1, 2, 3, tzinfo=east),
             "2024-01-01T21:30:00Z"),
            ("hour", datetime.time(1, 2, 3), "01:02:03"),
            ("span", datetime.timedelta(days=1, seconds=2), "P1DT00H00M02S"),
            ("raw", b"\0\xff", "AP8="),
            ("extra", {"a": [1, None, "x"]}, {"a": [1, None, "x"]}),
            ("ident", ident, str(ident)),
            ("address", "::1", "::1"),
            ("is_final", False, False),
            ("text", '" & <b> \u2028 \U0001f600', '" & <b> \u2028 \U0001f600'),
        ):  # fmt: skip
            with self.subTest(name, value=value):
                record = Score.objects.create(**{name: value})
                self.assertEqual(self.record(record)[name], shown)

    def test_infinities_and_nan_are_null_before_they_are_saved(self):
        for value in (float("nan"), float("-inf")):
            self.assertIsNone(ajax.encoder.encode(Score(level=value))["level"])
        for value in ("NaN", "Infinity"):
            data = ajax.encoder.encode(Score(amount=Decimal(value)))
            self.assertIsNone(data["amount"])

    def test_a_file_is_its_url_or_null(self):
        record = Score.objects.create()
        self.assertIsNone(self.record(record)["sheet"])
        record.sheet.save("one.txt", ContentFile(b"notes"))
        self.assertEqual(self.record(record)["sheet"], record.sheet.url)
        self.assertTrue(record.sheet.url.startswith("/media/sheets/one"))

    def test_an_instance_that_is_not_clean_is_shown_for_what_it_is(self):
        score = Score(
            amount="9.5", count="7", day="2024-01-01", is_final="yes", span="1"
        )
        data = ajax.encoder.encode(score)
        names = ("pk", "amount", "count", "day", "is_final", "span", "sheet")
        self.assertEqual(
            [data[name] for name in names],
            [None, "9.5", "7", "2024-01-01", "yes", "1", None],
        )

    def test_what_the_database_will_fill_in_is_null_until_then(self):
        data = ajax.encoder.encode(Royalty(count=2))
        self.assertEqual((data["doubled"], data["shelf"]), (None, None))
        data = self.record(Royalty.objects.create(count=2))
        self.assertEqual((data["doubled"], data["shelf"]), (4, 7))

    def test_unsaved_records_show_what_they_refer_to(self):
        albums = [Album(artist=Artist(name=name), title=name) for name in "AB"]
        data = ajax.encoder.encode([Track(album=album, title="T") for album in albums])
        self.assertEqual([each["album"]["title"] for each in data], ["A", "B"])
        self.assertEqual([each["album"]["artist"]["name"] for each in data], ["A", "B"])
        self.assertEqual(
            (data[0]["pk"], data[0]["guests"], data[0]["tags"]), (None, [], [])
        )

    def test_a_pk_that_is_not_clean_finds_its_relations(self):
        playlist = Playlist.objects.create(id=str(uuid.uuid4()), name="Mine")
        playlist.artists.add(self.artist)
        playlist.tags.add("soft")
        data = ajax.encoder.encode(playlist)
        self.assertEqual(data["artists"], [self.artist.pk])
        self.assertEqual([tag["name"] for tag in data["tags"]], ["soft"])

    def test_a_foreign_key_that_is_not_clean_finds_its_record(self):
        track = Track(album_id=str(self.album.pk), title="New")
        self.assertEqual(ajax.encoder.encode(track)["album"]["title"], "Live")
        self.assertEqual(track.album, self.album)


class EncoderTests(MusicTestCase):
    def test_include_and_exclude_hold_at_the_top_and_expanded(self):
        for encoder, shown in (
            (ajax.IncludeEncoder(include=["username", "email"]), {"username", "email"}),
            (ajax.IncludeEncoder(include=["username", "password"]), {"username"}),
        ):
            with self.subTest(shown=shown):
                self.speak(User, encoder)
                data = self.record(self.article)["author"]
                self.assertEqual(set(data), {"pk", *shown})
                self.assertEqual(set(ajax.encoder.encode(self.user)), {"pk", *shown})
                self.doCleanups()
        self.speak(User, ajax.ExcludeEncoder(exclude=["email", "last_login"]))
        data = self.record(self.article)["author"]
        self.assertIn("first_name", data)
        self.assertFalse({"email", "last_login", "password"} & set(data))

    def test_an_encoder_shows_nothing_beyond_the_endpoints_fields(self):
        class Tell(ajax.DefaultEncoder):
            def to_dict(self, record, **options):
                data = super().to_dict(record, **options)
                return data | {"notes": record.notes, "length": len(record.name)}

        for encoder in (Tell, Tell(), lambda record, **options: Tell()(record)):
            self.speak(Artist, encoder)
            data = self.record(self.album)["artist"]
            self.assertEqual(data, self.shown_artist | {"length": 4})
            self.assertEqual(self.record(self.artist), data)
            self.doCleanups()
        self.speak(Artist, ajax.IncludeEncoder(include=["name", "notes"]))
        self.assertEqual(
            self.record(self.artist), {"pk": self.artist.pk, "name": "Nina"}
        )

    def test_a_function_of_the_record_may_speak(self):
        self.speak(Artist, lambda record: {"pk": record.pk, "says": record.name})
        shown = {"pk": self.artist.pk, "says": "Nina"}
        self.assertEqual(self.record(self.album)["artist"], shown)
        self.assertEqual(ajax.encoder.encode(self.artist, html_escape=True), shown)

    def test_html_is_escaped_for_the_model_or_for_once(self):
        Artist.objects.filter(pk=self.artist.pk).update(name="<b>")
        self.assertEqual(self.record(self.album)["artist"]["greeting"], "Hello <b>")
        data = ajax.encoder.encode(Album.objects.get(), html_escape=True)
        self.assertEqual(data["artist"]["name"], "&lt;b&gt;")
        self.assertEqual(data["artist"]["greeting"], "Hello &lt;b&gt;")
        self.speak(Artist, ajax.HTMLEscapeEncoder)
        self.assertEqual(self.record(self.album)["artist"]["shout"], "&lt;B&gt;")

    def test_html_is_escaped_in_tags_json_and_what_is_mixed_in(self):
        self.track.tags.add("<i>")
        data = ajax.encoder.encode(self.track, html_escape=True)
        self.assertEqual(data["tags"][0]["name"], "&lt;i&gt;")
        data = ajax.encoder.encode(Score(extra={"<": ["<"]}), html_escape=True)
        self.assertEqual(data["extra"], {"&lt;": ["&lt;"]})
        data = ajax.encoder.encode([self.track, {"a": "<"}, "<"], html_escape=True)
        self.assertEqual(data[1:], [{"a": "&lt;"}, "&lt;"])

    def test_an_encoder_may_be_asked_by_itself(self):
        shown = ajax.DefaultEncoder().to_dict(self.track)
        self.assertEqual(shown, ajax.encoder.encode(self.track))

    def test_encode_takes_a_record_a_queryset_or_any_iterable(self):
        encode = ajax.encoder.encode
        one = encode(self.album)
        self.assertEqual(one, self.record(self.album))
        for many in (Album.objects.all(), [self.album], iter([self.album])):
            self.assertEqual(encode(many), [one])
        mixed = encode([self.album, self.guest, {"of": self.guest}, 3])
        other = encode(self.guest)
        self.assertEqual(mixed, [one, other, {"of": other}, 3])
        self.assertEqual(encode([]), [])

    def test_encode_with_an_encoder_for_once(self):
        only = ajax.IncludeEncoder(include=["title"])
        shown = {"pk": self.album.pk, "title": "Live"}
        self.assertEqual(ajax.encoder.encode(self.album, only), shown)
        self.assertEqual(ajax.encoder.encode([self.album], encoder=only), [shown])
        self.assertIn("artist", ajax.encoder.encode(self.album))

    def test_encode_has_no_user_and_keeps_restricted_models_as_pks(self):
        agent = Agent.objects.create(name="Sid")
        Album.objects.update(label=self.label, agent=agent)
        data = ajax.encoder.encode(Track.objects.get())["album"]
        self.assertEqual((data["label"], data["agent"]), (self.label.pk, agent.pk))
        self.assertEqual(data["artist"], self.shown_artist)


class QueryTests(MusicTestCase):
    """Each request is two queries more: its session and its user."""

    def make(self, count, first=0):
        for number in range(first, first + count):
            agent = Agent.objects.create(name="A")
            label = Label.objects.create(code=f"l{number}", name="L")
            artist = Artist.objects.create(name="X")
            album = Album.objects.create(artist=artist, agent=agent, label=label)
            track = Track.objects.create(album=album, title="T", remix_of=self.track)
            track.guests.add(self.guest)
            track.tags.add("x", f"t{number}")
            track.moods.add("y")
            agent.tags.add("z")

    def test_queries_do_not_grow_with_rows(self):
        self.make(4)
        self.serve(Track, list_per_page=100)
        # The tags of tracks and agents, moods, guests, and the labels.
        beside = 5
        track = Track.objects.get(album__label__code="l0")
        self.record(track)
        for first in (10, 100):
            with self.assertNumQueries(2 + 1 + beside):
                self.record(track)
            with self.assertNumQueries(2 + 2 + beside):
                found = self.post("shop/track/list")["data"]
            self.assertEqual(len(found), Track.objects.count())
            self.make(45, first)

    def test_get_with_joined_relations_is_one_query(self):
        note = Note.objects.create(owner=self.user, article=self.article, text="n")
        self.record(note)
        with self.assertNumQueries(2 + 1 + 2):
            self.assertEqual(self.record(note)["article"]["category"]["title"], "Local")

    def test_encode_makes_one_query_per_relation(self):
        self.make(3)
        ajax.encoder.encode(self.track)
        counts = []
        for first in (10, 100):
            with CaptureQueriesContext(connection) as queries:
                ajax.encoder.encode(Track.objects.all())
            counts.append(len(queries))
            self.make(10, first)
        self.assertEqual(counts[0], counts[1])

    def test_more_relations_than_a_database_joins(self):
        names = [f"channel_{number}" for number in range(70)]
        maker = Maker.objects.create(code="blue")
        for model, record in ((Mixer, self.artist), (Patch, maker)):
            made = model.objects.create(**dict.fromkeys(names, record))
            for expand, shown in (
                (True, ajax.encoder.encode(record)),
                (False, record.pk),
            ):
                with self.subTest(model.__name__, expand=expand):
                    self.serve(model, expand=expand)
                    data = self.record(made)
                    self.assertEqual([data[name] for name in names], [shown] * 70)
                    self.doCleanups()
        mixer = Mixer.objects.get()
        with self.assertNumQueries(2 + 2):
            self.record(mixer)


# --- Lists ----------------------------------------------------------------------------


class ListTests(MusicTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        year = functools.partial(datetime.datetime, tzinfo=datetime.timezone.utc)
        cls.second = Album.objects.create(artist=cls.guest, title="Studio")
        for title, album, plays, released, remix_of in (
            ("Two", cls.album, 5, year(2020, 5, 1), None),
            ("Three", cls.second, 5, year(2021, 5, 1), cls.track),
            ("Four", cls.second, 9, year(2021, 6, 1), None),
        ):
            track = Track.objects.create(
                album=album, title=title, plays=plays, released=released,
                remix_of=remix_of,
            )  # fmt: skip
            track.guests.add(cls.artist, cls.guest)
            track.tags.add("fast", title.lower())

    def titles(self, data=None, **extra):
        return [e["title"] for e in self.post("shop/track/list", data, **extra)["data"]]

    def test_paging_takes_junk_for_the_default_and_clamps_the_rest(self):
        for sent, size, page, count in (
            ({}, 3, 1, 3),
            ({"current_page": 2}, 3, 2, 1),
            ({"current_page": "2", "items_per_page": "2"}, 2, 2, 2),
            ({"current_page": 3}, 3, 3, 0),
            ({"current_page": 0}, 3, 1, 3),
            ({"current_page": -1, "items_per_page": -1}, 1, 1, 1),
            ({"items_per_page": 1000}, 100, 1, 4),
            ({"current_page": "x", "items_per_page": "x"}, 3, 1, 3),
            ({"current_page": None, "items_per_page": []}, 3, 1, 3),
            ({"current_page": {}, "items_per_page": 1.5}, 3, 1, 3),
        ):
            with self.subTest(sent=sent):
                reply = self.post("shop/track/list", sent)
                self.assertEqual(
                    [reply["items_per_page"], reply["current_page"], reply["total"]],
                    [size, page, 4],
                )
                self.assertEqual(reply["total_pages"], -(-4 // size))
                self.assertEqual(len(reply["data"]), count)

    def test_no_overflow_of_a_page_reaches_the_database(self):
        for value in (2**31, 2**63, 10**30, "9" * 30):
            sent = {"current_page": value, "items_per_page": value}
            self.assertEqual(self.titles(sent), [])
            self.assertEqual(self.titles(sent, form=True), [])
        self.assertEqual(self.titles({"current_page": "9" * 5000}, form=True), [])

    def test_page_sizes_are_the_endpoints_and_the_settings(self):
        size = {"items_per_page": 50}
        with override_settings(AJAX_MAX_PER_PAGE=2):
            self.assertEqual(self.post("shop/track/list", size)["items_per_page"], 2)
            self.assertEqual(self.post("shop/track/list")["items_per_page"], 2)
        self.serve(Track, max_per_page=1)
        self.assertEqual(self.post("shop/track/list", size)["items_per_page"], 1)

    def test_order_is_what_the_client_asks_within_sortable_by(self):
        for order, titles in (
            ("title", ["Four", "One", "Three"]),
            ("-title", ["Two", "Three", "One"]),
            ("-plays,-title", ["Four", "Two", "Three"]),
            (["plays", "title"], ["One", "Three", "Two"]),
            ("-album__title, title", ["Four", "Three", "One"]),
        ):
            with self.subTest(order=order):
                self.assertEqual(self.titles({"order_by": order}), titles)
        many = ",".join(["title"] * 11)
        unknown = ("released", "--title", "titel", "album__artist")
        for order in (*unknown, many, 7, None, {}, [[]]):
            with self.subTest(order=order):
                errors = self.errors("shop/track/list", {"order_by": order})
                self.assertIn("order_by", errors)

    def test_order_is_the_endpoints_else_the_models_else_pk(self):
        pks = [e["pk"] for e in self.post("shop/track/list")["data"]]
        self.assertEqual(pks, sorted(pks))
        self.serve(Track, ordering=["-title"])
        self.assertEqual(self.titles(), ["Two", "Three", "One"])

    def test_pages_never_overlap_where_the_order_leaves_ties(self):
        Track.objects.update(plays=1)
        for order in ("plays", "-plays"):
            seen = []
            for page in range(1, 5):
                sent = {"order_by": order, "items_per_page": 1, "current_page": page}
                seen += self.titles(sent)
            self.assertCountEqual(seen, ["One", "Two", "Three", "Four"])

    def test_pages_of_a_model_without_options_follow_its_meta(self):
        for number, title in enumerate(("b", "a", "b", "c"), 1):
            Award.objects.create(number=number, title=title)
        seen = []
        for page in (1, 2, 3):
            sent = {"items_per_page": 2, "current_page": page}
            reply = self.post("shop/award/list", sent)
            self.assertEqual((reply["total"], reply["total_pages"]), (4, 2))
            seen += [each["pk"] for each in reply["data"]]
        self.assertEqual(seen, [4, 1, 3, 2])
        Award.objects.filter(number=4).delete()
        self.assertEqual(self.post("shop/award/list")["total"], 3)

    def test_search_wants_every_word_somewhere(self):
        for search, titles in (
            ("t", {"Two", "Three", "Four"}),
            ("TWO", {"Two"}),
            ("two live", {"Two"}),
            ("two studio", set()),
            ("tudio", set()),
            ("otis", {"Two", "Three", "Four"}),
            ("", {"One", "Two", "Three", "Four"}),
            ('"Two"', {"Two"}),
            ('"', {"One", "Two", "Three", "Four"}),
            ("%", set()),
            ("_", set()),
        ):
            with self.subTest(search=search):
                reply = self.post(
                    "shop/track/list", {"search": search, "items_per_page": 9}
                )
                found = [each["title"] for each in reply["data"]]
                self.assertCountEqual(found, titles)
                self.assertEqual(reply["total"], len(titles))
        for search in (1, None, ["a"], {}, " ".join("abcdefghijk")):
            with self.subTest(search=search):
                self.assertIn(
                    "search", self.errors("shop/track/list", {"search": search})
                )
        self.errors("shop/agent/list", {"search": "a"})

    def test_filters(self):
        for sent, titles in (
            ({"album": self.album.pk}, ["One", "Two"]),
            ({"album": str(self.album.pk)}, ["One", "Two"]),
            ({"album": {"pk": self.album.pk}}, ["One", "Two"]),
            ({"album": [self.album.pk, self.second.pk], "plays": 9}, ["Four"]),
            ({"album": -1}, []),
            ({"album": []}, []),
            ({"album__in": [self.second.pk]}, ["Three", "Four"]),
            ({"album__in": self.album.pk}, ["One", "Two"]),
            ({"plays": [0, 9]}, ["One", "Four"]),
            ({"plays__gte": 6}, ["Four"]),
            ({"plays__in": [0, 9]}, ["One", "Four"]),
            ({"plays__in": 9}, ["Four"]),
            ({"title": "Two"}, ["Two"]),
            ({"title": ["Two", "Four"]}, ["Two", "Four"]),
            ({"title__in": ["Two", "Four"]}, ["Two", "Four"]),
            ({"title__in": "Two"}, ["Two"]),
            ({"title__icontains": "O"}, ["One", "Two", "Four"]),
            ({"guests": self.artist.pk}, ["Two", "Three", "Four"]),
            ({"guests": [self.artist.pk, self.guest.pk]}, ["Two", "Three", "Four"]),
            ({"guests__name": ["Nina", "Otis"]}, ["Two", "Three", "Four"]),
            ({"guests": None}, ["One"]),
            ({"released": None}, ["One"]),
            ({"released": [None, "2020-05-01T00:00:00Z"]}, ["One", "Two"]),
            ({"released__gte": "2021-05-15"}, ["Four"]),
            ({"released__year": 2021}, ["Three", "Four"]),
            ({"released__year": "2020"}, ["Two"]),
            ({"remix_of": self.track.pk}, ["Three"]),
            ({"remix_of": None}, ["One", "Two", "Four"]),
            ({"remix_of__isnull": False}, ["Three"]),
            ({"remix_of__isnull": [True, False]}, ["One", "Two", "Three", "Four"]),
            ({"price__lte": "1.00"}, ["One", "Two", "Three", "Four"]),
            ({"tags": "fast"}, ["Two", "Three", "Four"]),
            ({"tags": ["two", "four", "fast"]}, ["Two", "Three", "Four"]),
            ({"tags": "two, four"}, ["Two", "Four"]),
            ({"tags": ["slow"]}, []),
        ):
            with self.subTest(sent=sent):
                reply = self.post("shop/track/list", sent | {"items_per_page": 9})
                found = [each["title"] for each in reply["data"]]
                self.assertEqual((found, reply["total"]), (titles, len(titles)))

    def test_filters_by_form(self):
        for sent, titles in (
            ({"album": [self.second.pk]}, ["Three", "Four"]),
            ({"plays": ["0", "9"]}, ["One", "Four"]),
            ({"plays[]": ["0", "9"]}, ["One", "Four"]),
            ({"released": "null"}, ["One"]),
            ({"remix_of__isnull": "false"}, ["Three"]),
            ({"tags": "two,four"}, ["Two", "Four"]),
        ):
            with self.subTest(sent=sent):
                self.assertEqual(self.titles(sent, form=True), titles)

    def test_a_filter_whose_value_cannot_be_is_refused(self):
        for key, values in (
            ("album", ["x", True, 1.5, {}, [[1]], 10**30]),
            ("album__in", ["x", 10**30, {}]),
            ("plays", ["x", {}, True, [1, "x"], list(range(101))]),
            ("plays__gte", ["x", None, {}]),
            ("plays__in", ["x", {}]),
            ("title", [True, {}]),
            ("title__icontains", [None, {}]),
            ("released__gte", ["soon", None, 5, "2024-13-01"]),
            ("released__year", ["x", 10**9, None, {}, 0, -1]),
            ("remix_of__isnull", ["maybe", None, 2, {}]),
            ("price__lte", ["x", "NaN", "Infinity", {}, None]),
            ("tags", [7, [7], {}, None, ["x" * 101], ["a"] * 101]),
        ):
            for value in values:
                with self.subTest(key, value=str(value)[:20]):
                    self.assertIn(key, self.errors("shop/track/list", {key: value}))

    def test_an_unknown_key_is_never_an_unfiltered_list(self):
        for key in (
            "titel",
            "price",
            "album__artist",
            "plays__lt",
            "pk",
            "",
            "a" * 500,
        ):
            with self.subTest(key):
                self.assertIn(key, self.errors("shop/track/list", {key: 1}))
        errors = self.errors("shop/track/list", {"plays_gte": 1})
        self.assertIn('Did you mean "plays__gte"?', errors["plays_gte"][0])

    def test_relations_to_many_do_not_repeat_a_record(self):
        for sent in (
            {"tracks__title": ["One", "Two"]},
            {"tracks": [self.track.pk, Track.objects.get(title="Two").pk]},
            {"search": "live"},
            {"search": "o"},
        ):
            with self.subTest(sent=sent):
                reply = self.post("shop/album/list", sent | {"order_by": "title"})
                found = [each["title"] for each in reply["data"]]
                self.assertEqual(len(found), len(set(found)))
                self.assertEqual((found[0], reply["total"]), ("Live", len(found)))

    def test_a_filter_over_a_relation_with_nulls(self):
        Album.objects.filter(title="Live").update(label=self.label)
        for sent, titles in (
            ({"label": None}, ["Studio"]),
            ({"label__code": "blue"}, ["Live"]),
            ({"label__code": None}, ["Studio"]),
            ({"label": [None, self.label.pk]}, ["Live", "Studio"]),
        ):
            with self.subTest(sent=sent):
                reply = self.post("shop/album/list", sent | {"order_by": "title"})
                self.assertEqual([each["title"] for each in reply["data"]], titles)

    def test_what_can_get_refuses_is_left_out_but_counted(self):
        Agent.objects.create(name="Ann")
        Agent.objects.create(name="Bob", is_private=True)
        reply = self.post("shop/agent/list")
        self.assertEqual([each["name"] for each in reply["data"]], ["Ann"])
        self.assertEqual(reply["total"], 2)

    def test_what_is_outside_get_queryset_is_neither_listed_nor_counted(self):
        Label.objects.create(code="dark", name="Dark", is_public=False)
        reply = self.post("shop/label/list")
        self.assertEqual([each["code"] for each in reply["data"]], ["blue"])
        self.assertEqual((reply["total"], reply["total_pages"]), (1, 1))

    def test_list_is_refused_unless_the_endpoint_says_otherwise(self):
        self.post("shop/score/list", status=403)
        self.post("shop/score/list", {"nonsense": 1}, status=403)


# --- Tags -----------------------------------------------------------------------------


class TagsTests(MusicTestCase):
    def tags(self, record, command, tags=None, manager="tags", **extra):
        where = f"shop/{record._meta.model_name}/{record.pk}/{manager}/{command}"
        return self.post(where, None if tags is None else {"tags": tags}, **extra)[
            "data"
        ]

    def names(self, *args, **extra):
        return [tag["name"] for tag in self.tags(*args, **extra)]

    def test_each_command_answers_all_tags(self):
        for command, tags, names in (
            ("add", ["a", "b"], ["a", "b"]),
            ("add", "b, c", ["a", "b", "c"]),
            ("add", '"d e" f', ["a", "b", "c", "d e", "f"]),
            ("remove", ["d e", "f", "none"], ["a", "b", "c"]),
            ("set", [{"name": "x"}, "a"], ["a", "x"]),
            ("set", [], []),
            ("set", "p q", ["p", "q"]),
            ("clear", None, []),
        ):
            with self.subTest(command, tags=tags):
                found = self.tags(self.track, command, tags)
                self.assertEqual(sorted(tag["name"] for tag in found), names)
                self.assertCountEqual(self.record(self.track)["tags"], found)
        self.tags(self.track, "add", ["Big Band"])
        tag = self.track.tags.get()
        shown = [{"pk": tag.pk, "name": "Big Band", "slug": tag.slug}]
        self.assertEqual(self.tags(self.track, "remove", []), shown)

    def test_commands_by_form(self):
        path = f"shop/track/{self.track.pk}/tags"
        for command, sent, names in (
            ("add", {"tags": "a,b"}, ["a", "b"]),
            ("set", {"tags": ["c", "d"]}, ["c", "d"]),
            ("remove", {"tags[]": ["c"]}, ["d"]),
            ("clear", {}, []),
        ):
            with self.subTest(command):
                data = self.post(f"{path}/{command}", sent, form=True)["data"]
                self.assertEqual(sorted(tag["name"] for tag in data), names)

    def test_tags_that_cannot_be_are_refused(self):
        path = f"shop/track/{self.track.pk}/tags/add"
        long, many = "x" * 101, [str(number) for number in range(101)]
        for tags in (None, 7, {}, [7], [None], [{}], [long], many):
            with self.subTest(tags=str(tags)[:20]):
                self.assertIn("tags", self.errors(path, {"tags": tags}))
        self.assertIn("tags", self.errors(path))
        self.assertIn("tagz", self.errors(path, {"tags": "a", "tagz": "a"}))
        self.assertFalse(self.track.tags.exists())

    def test_commands_want_the_permission_to_update(self):
        self.track.tags.add("old")
        Track.objects.update(title="Locked")
        for command in ("add", "remove", "set", "clear"):
            for tags in ("old", 7):
                path = f"shop/track/{self.track.pk}/tags/{command}"
                self.post(path, {"tags": tags}, status=403)
        self.assertEqual(self.tags(self.track, "similar"), [])
        self.assertEqual([*self.track.tags.names()], ["old"])

    def test_what_is_not_there_is_not_found(self):
        gone = Track.objects.order_by("pk").last().pk + 1
        for path in (
            f"{gone}/tags/add",
            "x/tags/similar",
            f"{self.track.pk}/guests/add",
            f"{self.track.pk}/title/clear",
            f"{self.track.pk}/nothing/add",
            f"{self.track.pk}/tags/all",
            f"{self.track.pk}/tags/tags",
        ):
            with self.subTest(path):
                self.post(f"shop/track/{path}", {"tags": "a"}, status=404)

    def test_a_hidden_manager_is_not_found_and_no_filter(self):
        self.serve(Track, exclude=["tags"])
        for command in ("add", "remove", "set", "clear", "similar"):
            path = f"shop/track/{self.track.pk}/tags/{command}"
            self.post(path, {"tags": "a"}, status=404)
        self.errors("shop/track/list", {"tags": "a"})
        self.assertEqual(self.names(self.track, "add", "a", manager="moods"), ["a"])

    def test_a_read_only_manager_offers_only_similar(self):
        self.serve(Track, readonly_fields=["tags"])
        for command in ("add", "remove", "set", "clear"):
            path = f"shop/track/{self.track.pk}/tags/{command}"
            self.post(path, {"tags": "a"}, status=404)
        self.assertEqual(self.tags(self.track, "similar"), [])

    def test_a_manager_is_offered_by_its_name_in_operations(self):
        self.serve(Track, operations=["get", "moods"])
        self.post(f"shop/track/{self.track.pk}/tags/clear", status=404)
        self.assertEqual(self.names(self.track, "add", "a", manager="moods"), ["a"])

    def test_similar_gives_what_shares_most_first_at_most_a_page(self):
        tracks = [Track.objects.create(album=self.album, title=t) for t in "ABCDE"]
        for count, track in enumerate(tracks):
            track.tags.add("alien", *"wxyz"[:count])
        self.track.tags.add(*"wxyz")
        # The same tags on another model, under the same pk, are nobody's business.
        Agent.objects.create(pk=tracks[0].pk, name="A").tags.add(*"wxyz")
        found = self.tags(self.track, "similar")
        self.assertEqual([each["title"] for each in found], ["E", "D", "C"])
        self.assertEqual(found[0], self.record(tracks[4]))

    def test_similar_leaves_out_what_may_not_be_seen(self):
        for name, private in (("A", False), ("B", True), ("C", False)):
            Agent.objects.create(name=name, is_private=private).tags.add("x")
        first = Agent.objects.get(name="A")
        names = [each["name"] for each in self.tags(first, "similar")]
        self.assertEqual(names, ["C"])
        queryset = Agent.objects.exclude(name="C")
        self.serve(Agent, get_queryset=lambda self, request: queryset.all())
        self.assertEqual(self.tags(first, "similar"), [])

    def test_queries_of_similar_do_not_grow(self):
        self.track.tags.add("x")
        counts = []
        for count in (3, 30):
            for _number in range(count):
                Track.objects.create(album=self.album, title="S").tags.add("x")
            self.tags(self.track, "similar")
            with CaptureQueriesContext(connection) as queries:
                self.tags(self.track, "similar")
            counts.append(len(queries))
        self.assertEqual(counts[0], counts[1])

    def test_two_managers_of_a_model_keep_apart(self):
        self.assertEqual(self.names(self.track, "add", "loud"), ["loud"])
        self.assertEqual(self.names(self.track, "add", "sad", manager="moods"), ["sad"])
        data = self.record(self.track)
        shown = [[tag["name"] for tag in data[name]] for name in ("tags", "moods")]
        self.assertEqual(shown, [["loud"], ["sad"]])
        other = Track.objects.create(album=self.album, title="Other")
        other.moods.add("sad", "loud")
        self.assertEqual(self.tags(self.track, "similar"), [])
        found = self.tags(self.track, "similar", manager="moods")
        self.assertEqual([each["pk"] for each in found], [other.pk])
        reply = self.post("shop/track/list", {"moods": ["sad"], "tags": ["loud"]})
        self.assertEqual([each["pk"] for each in reply["data"]], [self.track.pk])

    def test_through_models_for_other_primary_keys(self):
        for model, values in (
            (Playlist, [{"name": "A"}, {"name": "B"}]),
            (Genre, [{"slug": "soul"}, {"slug": "folk"}]),
        ):
            with self.subTest(model.__name__):
                first, second = [model.objects.create(**each) for each in values]
                self.assertEqual(self.names(first, "add", "x y"), ["x", "y"])
                self.assertEqual(self.names(second, "set", ["y"]), ["y"])
                found = self.tags(first, "similar")
                self.assertEqual([each["pk"] for each in found], [str(second.pk)])
                self.assertEqual(self.record(second)["tags"][0]["name"], "y")
                self.assertEqual(self.names(first, "clear"), [])
        reply = self.post("shop/playlist/list", {"tags": "y"})
        self.assertEqual([each["name"] for each in reply["data"]], ["B"])

    def test_tags_inherited_from_a_parent_model(self):
        live = LiveTrack.objects.create(album=self.album, title="L", venue="V")
        self.assertEqual(self.names(live, "add", "x"), ["x"])
        self.assertEqual([tag["name"] for tag in self.record(live)["tags"]], ["x"])
        reply = self.post("shop/livetrack/list", {"tags": ["x"]})
        self.assertEqual([each["pk"] for each in reply["data"]], [live.pk])
        other = LiveTrack.objects.create(album=self.album, title="M", venue="V")
        other.tags.add("x")
        self.assertEqual([e["pk"] for e in self.tags(live, "similar")], [other.pk])

    @override_settings(TAGGIT_CASE_INSENSITIVE=True)
    def test_case_does_not_matter_where_the_project_says_so(self):
        self.track.tags.add("Jazz")
        self.assertEqual(self.names(self.track, "add", ["jazz", "JAZZ"]), ["Jazz"])
        found = self.post("shop/track/list", {"tags": ["jAZZ"]})["data"]
        self.assertEqual([each["pk"] for each in found], [self.track.pk])

    def test_case_matters_else(self):
        self.track.tags.add("Jazz")
        self.assertEqual(self.post("shop/track/list", {"tags": ["jazz"]})["data"], [])
        self.assertEqual(self.names(self.track, "add", ["jazz"]), ["Jazz", "jazz"])


WITHOUT_TAGGIT = """
    import sys
    sys.modules["taggit"] = None
    import django
    from django.conf import settings
    settings.configure(
        SECRET_KEY="x", ROOT_URLCONF="__main__", ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth",
                        "django.contrib.sessions", "ajax"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                    "django.contrib.auth.middleware.AuthenticationMiddleware"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3",
                               "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
    from django.contrib.auth.models import Group, Permission
    from django.core.management import call_command
    from django.test import Client
    from django.urls import include, path
    import ajax

    class Open(ajax.ModelEndpoint):
        fields = ["name", "permissions"]
        list_filter = ["name"]
        def authenticate(self, request, application, method):
            return True
        def can_list(self, user):
            return True
        can_create = can_update = can_delete = lambda self, user, *records: True

    ajax.endpoint.register(Group, Open)
    urlpatterns = [path("ajax/", include("ajax"))]
    call_command("migrate", verbosity=0)
    call_command("check")
    pk = Group.objects.create(name="A").pk
    for where, data in (
        ("group", {"name": "B"}), ("group/list", {"name": ["A", "B"]}),
        (f"group/{pk}/get", {}), (f"group/{pk}/update", {"name": "C"}),
        (f"group/{pk}/tags/add", {"tags": "x"}), (f"group/{pk}/permissions/clear", {}),
        (f"group/{pk}/delete", {}),
    ):
        reply = Client().post(f"/ajax/auth/{where}.json", data, "application/json")
        print(reply.status_code, end=" ")
"""


class WithoutTaggitTests(AjaxTestCase):
    def test_a_project_without_taggit_misses_only_tags(self):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(WITHOUT_TAGGIT)],
            capture_output=True, text=True, timeout=120,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(
            done.stdout.endswith("200 200 200 200 404 404 200 "), done.stdout
        )


# --- Models and endpoints for the registry, the checks and the app --------------------


class Dock(models.Model):
    name = models.CharField(max_length=100)


class Ship(models.Model):
    dock = models.ForeignKey(Dock, models.CASCADE)
    name = models.CharField(max_length=100)
    arrived = models.DateTimeField(null=True)
    cargo = models.JSONField(default=dict)
    tags = TaggableManager(blank=True)

    def flag(self):
        return "NL"


class Lighthouse(models.Model):
    name = models.CharField(max_length=100)


def lighthouse(request):
    return "blink"


class Nobody(ajax.BaseAuthentication):
    def is_authenticated(self, request, application, method):
        return False


@contextlib.contextmanager
def serving(model, **attributes):
    """Serve a model by an endpoint class with these attributes, for a while."""
    attributes["__module__"] = __name__
    name = f"{model.__name__}Endpoint"
    ajax.endpoint.register(model, type(name, (ajax.ModelEndpoint,), attributes))
    try:
        yield
    finally:
        ajax.endpoint.unregister(model)


def yes(self, *arguments):
    return True


# --- The registry ---------------------------------------------------------------------


class RegistryTests(AjaxTestCase):
    def test_a_model_is_served_from_register_until_unregister(self):
        self.assertFalse(ajax.endpoint.is_registered(Dock))
        self.post("shop/dock", {"name": "West"}, status=404)
        with serving(Dock):
            self.assertTrue(ajax.endpoint.is_registered(Dock))
            self.post("shop/dock", {"name": "West"})
        ajax.endpoint.register(Dock)
        self.post("shop/dock", {"name": "West"})
        ajax.endpoint.unregister(Dock)
        self.assertFalse(ajax.endpoint.is_registered(Dock))
        self.post("shop/dock", {"name": "West"}, status=404)

    def test_the_decorator_gives_the_class_back_and_takes_several_models(self):
        class HarbourEndpoint(ajax.ModelEndpoint):
            pass

        self.assertIs(ajax.register(Dock, Lighthouse)(HarbourEndpoint), HarbourEndpoint)
        for model in (Dock, Lighthouse):
            self.assertTrue(ajax.endpoint.is_registered(model))
            ajax.endpoint.unregister(model)

    def test_a_model_registered_twice_is_an_error_that_names_it(self):
        with self.assertRaisesMessage(ajax.AlreadyRegistered, "shop.Article"):
            ajax.endpoint.register(Article)
        self.post(f"shop/article/{self.article.pk}/get")

    def test_unregistering_what_is_not_registered_is_an_error_that_names_it(self):
        with self.assertRaisesMessage(ajax.NotRegistered, "shop.Dock"):
            ajax.endpoint.unregister(Dock)

    def test_a_form_is_registered_and_unregistered_like_a_model(self):
        class BerthForm(forms.Form):
            pass

        ajax.endpoint.register(BerthForm, ajax.FormEndpoint)
        with self.assertRaisesMessage(ajax.AlreadyRegistered, "BerthForm"):
            ajax.endpoint.register(BerthForm)
        self.post("shop/berthform")
        ajax.endpoint.unregister(BerthForm)
        self.assertFalse(ajax.endpoint.is_registered(BerthForm))
        with self.assertRaisesMessage(ajax.NotRegistered, "BerthForm"):
            ajax.endpoint.unregister(BerthForm)

    def test_an_abstract_model_cannot_be_registered(self):
        class Vessel(models.Model):
            class Meta:
                app_label, abstract = "shop", True

        with self.assertRaisesMessage(ImproperlyConfigured, "Vessel"):
            ajax.endpoint.register(Vessel)

    @isolate_apps("test_ajax")
    def test_a_model_with_a_composite_key_cannot_be_registered(self):
        class Berth(models.Model):
            pk = models.CompositePrimaryKey("dock", "number")
            dock = models.IntegerField()
            number = models.IntegerField()

            class Meta:
                app_label = "shop"

        with self.assertRaisesMessage(ImproperlyConfigured, "shop.Berth"):
            ajax.endpoint.register(Berth)
        self.assertFalse(ajax.endpoint.is_registered(Berth))

    @isolate_apps("test_ajax")
    def test_a_swapped_model_is_skipped(self):
        class Pilot(models.Model):
            class Meta:
                app_label, swappable = "shop", "HARBOUR_PILOT"

        with self.settings(HARBOUR_PILOT="auth.User"):
            ajax.endpoint.register(Pilot)
            self.assertFalse(ajax.endpoint.is_registered(Pilot))
            self.post("shop/pilot", status=404)

    def test_a_model_answers_under_its_own_label_and_under_its_endpoints(self):
        record = ContentType.objects.get_for_model(Ship)
        with serving(ContentType):
            for label in ("contenttypes", "shop"):
                data = self.post(f"{label}/contenttype/{record.pk}/get")["data"]
                self.assertEqual(data["model"], "ship")
            self.post(f"auth/contenttype/{record.pk}/get", status=404)
        self.post(f"shop/contenttype/{record.pk}/get", status=404)

    @isolate_apps("test_ajax")
    def test_two_models_on_one_path_are_an_error_that_names_both(self):
        same = type(
            "ContentType",
            (models.Model,),
            {"__module__": __name__, "Meta": type("Meta", (), {"app_label": "shop"})},
        )
        with serving(ContentType):
            with self.assertRaises(ajax.AlreadyRegistered) as caught:
                ajax.endpoint.register(same)
        self.assertIn("shop.ContentType", str(caught.exception))
        self.assertIn("contenttypes.ContentType", str(caught.exception))
        self.assertFalse(ajax.endpoint.is_registered(same))

    def test_the_module_itself_is_nobodys_endpoints(self):
        names = ["login_required", "json_response", "register", "dispatch", "not_found"]
        for name in [*names, "autodiscover", "check_ajax", "main", "endpoint"]:
            for label in ("ajax", "shop"):
                with self.subTest(f"{label}/{name}"):
                    self.post(f"{label}/{name}", status=404)


# --- Settings -------------------------------------------------------------------------


class SettingsTests(AjaxTestCase):
    def test_the_largest_page_is_read_when_used(self):
        reply = self.post("shop/category/list", {"items_per_page": 50})
        self.assertEqual((reply["items_per_page"], len(reply["data"])), (50, 2))
        with override_settings(AJAX_MAX_PER_PAGE=1):
            reply = self.post("shop/category/list", {"items_per_page": 50})
        self.assertEqual((reply["items_per_page"], len(reply["data"])), (1, 1))

    def test_the_authentication_class_is_read_when_used(self):
        path = f"shop/article/{self.article.pk}/get"
        with override_settings(AJAX_AUTHENTICATION="test_ajax.Nobody"):
            reply = self.post(path, status=403)
        self.assertEqual(reply["data"]["message"], "User is not authorized.")
        self.post(path)


class TranslationTests(AjaxTestCase):
    def test_messages_are_translated_when_sent(self):
        path = f"shop/article/{self.article.pk}/tags/add"
        for language, text in (("de", "zwingend"), ("fr", "obligatoire")):
            with self.subTest(language), translation.override(language):
                self.assertIn(text, self.errors(path)["tags"][0])


# --- System checks --------------------------------------------------------------------


class CheckTests(SimpleTestCase):
    def found(self, id):
        """Return what the check says about this part's endpoints; each has a hint."""
        messages = [each for each in checks.run_checks() if each.id == id]
        self.assertTrue(all(each.hint for each in messages))
        names = ("Ship", "Dock", "Lighthouse")
        return [each.msg for each in messages if any(n in each.msg for n in names)]

    def test_names_that_do_not_exist_are_e002(self):
        unknown = {
            "fields": ["name", "nmae"],
            "exclude": ["nmae"],
            "readonly_fields": ["nmae"],
            "immutable_fields": ["nmae"],
            "expand": ["nmae"],
            "ordering": ["-nmae"],
            "sortable_by": ["dock__nmae"],
            "search_fields": ["^nmae"],
            "list_filter": ["name", "arrived__nmae"],
            "operations": ["get", "nmae"],
        }
        more = [("expand", ["dock__name"]), ("list_filter", ["name__regex"])]
        for attribute, names in [*unknown.items(), *more]:
            with self.subTest(attribute), serving(Ship, **{attribute: names}):
                (message,) = self.found("ajax.E002")
                for word in ("ShipEndpoint", attribute, names[-1]):
                    self.assertIn(word, message)

    def test_names_that_exist_are_not_e002(self):
        known = {
            "fields": ["pk", "name", "dock", "tags", "flag", "length"],
            "length": yes,
            "exclude": ["cargo"],
            "readonly_fields": ["dock", "flag"],
            "immutable_fields": ["arrived"],
            "expand": ["dock"],
            "ordering": ["-arrived", "dock__name", models.F("pk").desc()],
            "sortable_by": ["pk", "name", "dock__name"],
            "search_fields": ["^name", "=dock__name", "@name", "name__icontains"],
            "list_filter": [
                "dock",
                "dock__name__in",
                "arrived__year__gte",
                "tags__name",
            ],
            "operations": ["get", "list", "tags", "moor"],
            "moor": lambda self, request: None,
        }
        with serving(Ship, **known):
            self.assertEqual(self.found("ajax.E002"), [])
        for attributes in (
            {"fields": "__all__", "expand": True},
            {"fields": ["id"], "expand": 2},
            {"expand": False, "list_filter": ["cargo__owner", "arrived__date"]},
        ):
            with self.subTest(attributes), serving(Ship, **attributes):
                self.assertEqual(self.found("ajax.E002"), [])

    def test_a_function_or_form_in_the_place_of_a_create_is_e003(self):
        with serving(Lighthouse):
            (message,) = self.found("ajax.E003")
        self.assertIn("shop.Lighthouse", message)
        form = type("Dock", (forms.Form,), {"__module__": __name__})
        ajax.endpoint.register(form)
        self.addCleanup(ajax.endpoint.unregister, form)
        self.assertEqual(self.found("ajax.E003"), [])
        with serving(Dock):
            (message,) = self.found("ajax.E003")
        self.assertIn("shop.Dock", message)

    def test_no_create_or_another_name_is_not_e003(self):
        with serving(Lighthouse, operations=["get", "list"]), serving(Dock):
            self.assertEqual(self.found("ajax.E003"), [])

    def test_a_model_that_only_expansion_shows_is_w001(self):
        with serving(Ship):
            (message,) = self.found("ajax.W001")
        self.assertIn("ShipEndpoint", message)
        self.assertIn("shop.Dock", message)

    def test_a_model_that_somebody_speaks_for_is_not_w001(self):
        with serving(Ship), serving(Dock, fields="__all__"):
            self.assertEqual(self.found("ajax.W001"), [])
        for attributes in ({"expand": False}, {"expand": 0}, {"exclude": ["dock"]}):
            with self.subTest(attributes), serving(Ship, **attributes):
                self.assertEqual(self.found("ajax.W001"), [])
        ajax.encoder.register(Dock, ajax.ExcludeEncoder(exclude=[]))
        self.addCleanup(ajax.encoder.unregister, Dock)
        with serving(Ship):
            self.assertEqual(self.found("ajax.W001"), [])

    def test_can_get_without_get_queryset_is_w003(self):
        for operations in (None, ["get", "list"], ["get", "tags"]):
            with self.subTest(operations=operations):
                with serving(Ship, can_get=yes, operations=operations):
                    (message,) = self.found("ajax.W003")
                self.assertIn("ShipEndpoint", message)

    def test_can_get_where_nothing_is_counted_is_not_w003(self):
        everything = {"get_queryset": lambda self, request: Ship.objects.all()}
        for attributes in (
            {},
            everything,
            {"can_get": yes, **everything},
            {"can_get": yes, "operations": ["get", "update"]},
        ):
            with self.subTest(attributes), serving(Ship, **attributes):
                self.assertEqual(self.found("ajax.W003"), [])


# --- Projects of their own ------------------------------------------------------------


class ProjectTestCase(SimpleTestCase):
    """Writes a project into a folder, and runs Python there: only that proves what a
    process imports first, and what it does with another project."""

    FILES = {
        "settings.py": """
            SECRET_KEY = "only for tests"
            ALLOWED_HOSTS = ["testserver"]
            ROOT_URLCONF = "urls"
            USE_TZ = True
            DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
            DATABASES = {
                "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
            }
            INSTALLED_APPS = [
                "django.contrib.contenttypes",
                "django.contrib.auth",
                "django.contrib.sessions",
                "ajax",
                "my_app",
            ]
            MIDDLEWARE = [
                "django.contrib.sessions.middleware.SessionMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware",
            ]
            """,
        "urls.py": """
            from django.urls import include, path
            urlpatterns = [path("ajax/", include("ajax.urls"))]
            """,
        "my_app/__init__.py": "",
        "my_app/models.py": """
            from django.db import models
            class Category(models.Model):
                foo = models.CharField(max_length=100)
                bar = models.CharField(max_length=100)
                baz = models.CharField(max_length=100, default="z")
                def __str__(self):
                    return self.foo
            """,
        "my_app/endpoints.py": """
            import ajax
            from my_app.models import Category
            ajax.endpoint.register(Category)
            def hello(request):
                return "hi"
            """,
        # What scripts start from: tables, a user that is logged in, and `post`.
        "shell.py": """
            import json, sys
            import django
            django.setup()
            from django.contrib.auth.models import User
            from django.core.management import call_command
            from django.test import Client
            call_command("migrate", run_syncdb=True, verbosity=0)
            user = User.objects.create_user("ann")
            client = Client(raise_request_exception=False)
            client.force_login(user)
            def post(path, data=None, client=client):
                response = client.post(f"/ajax/{path}.json", data)
                return [response.status_code, response.json()["data"]]
            """,
    }

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.write(self.FILES)

    def write(self, files):
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")

    def endpoints(self, text):
        self.write({"my_app/endpoints.py": text})

    def copy_module(self, name):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ajax.__file__, self.folder / name)

    def environment(self, **variables):
        paths = [str(self.folder), str(pathlib.Path(ajax.__file__).parent)]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "settings",
            **variables,
        }

    def command(self, *arguments):
        return [sys.executable, *(f"-W{each}" for each in sys.warnoptions), *arguments]

    def python(self, *arguments, status=0, **variables):
        """Run Python in the folder; return what it wrote, to either stream."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def script(self, text):
        """Run a script in the project; return what it passes to `answer`."""
        start = "from shell import *\ndef answer(*a): print('>' + json.dumps(a))\n"
        written = self.python("-c", start + textwrap.dedent(text))
        (line,) = [line for line in written.splitlines() if line.startswith(">")]
        return json.loads(line[1:])

    def check(self, status=0):
        return self.python("-m", "django", "check", status=status)

    def set(self, text):
        """Add a line to the settings."""
        with open(self.folder / "settings.py", "a", encoding="utf-8") as file:
            file.write(f"{text}\n")


class DiscoveryTests(ProjectTestCase):
    def test_endpoints_are_imported_on_first_use(self):
        names = self.script("""
            before = "my_app.endpoints" in sys.modules
            answered = post("my_app/hello")
            answer(before, answered, "my_app.endpoints" in sys.modules)
            """)
        self.assertEqual(names, [False, [200, "hi"], True])

    def test_they_are_imported_once_while_other_requests_wait(self):
        self.endpoints("""
            import time
            with open("imported", "a") as file:
                file.write("x")
            time.sleep(0.5)
            def hello(request):
                return "hi"
            """)
        replies = self.script("""
            import threading
            barrier, replies = threading.Barrier(4), []
            def call():
                barrier.wait()
                replies.append(post("my_app/hello", client=Client()))
            threads = [threading.Thread(target=call) for _ in range(4)]
            for each in threads: each.start()
            for each in threads: each.join()
            answer(*replies)
            """)
        self.assertEqual(replies, [[200, "hi"]] * 4)
        self.assertEqual((self.folder / "imported").read_text(), "x")

    def test_one_that_fails_answers_every_request_with_500(self):
        self.set("INSTALLED_APPS += ['zoo']")
        self.write({"zoo/__init__.py": ""})
        for broken in ("1 / 0", "import no_such_module", "raise SystemExit"):
            self.write({"zoo/endpoints.py": f"import ajax\n{broken}\n"})
            with self.subTest(broken):
                replies = self.script("""
                    import logging
                    seen = []
                    class Handler(logging.Handler):
                        def emit(self, record):
                            seen.append(record.getMessage())
                    logging.getLogger("django.request").addHandler(Handler())
                    paths = ["my_app/hello", "my_app/category", "zoo/x", "a/b/1/c", "x"]
                    try:
                        post("my_app/hello")
                    except SystemExit:
                        pass
                    seen.clear()
                    answer([post(each) for each in paths], len(seen))
                    """)
                error = [500, {"code": 500, "message": "Internal server error."}]
                self.assertEqual(replies, [[error] * 5, 5])

    def test_one_that_fails_leaves_both_registries_as_they_were(self):
        self.set("INSTALLED_APPS += ['zoo']")
        self.write({
            "zoo/__init__.py": "",
            "zoo/endpoints.py": """
                import ajax
                from django.contrib.auth.models import Group, User
                from my_app.models import Category
                ajax.encoder.register(Category, ajax.DefaultEncoder)
                ajax.endpoint.unregister(Group)
                1 / 0
                """,
        })  # fmt: skip
        found = self.script("""
            import ajax
            from django.contrib.auth.models import Group
            from my_app.models import Category
            ajax.endpoint.register(Group)
            ajax.encoder.register(User, ajax.DefaultEncoder)
            status = post("my_app/hello")[0]
            answer(
                status,
                [ajax.endpoint.is_registered(each) for each in (Group, Category)],
                [ajax.encoder.is_registered(each) for each in (User, Category)],
            )
            """)
        self.assertEqual(found, [500, [True, False], [True, False]])

    def test_one_that_fails_fails_manage_check_as_e001(self):
        self.assertIn("no issues", self.check())
        self.endpoints("import no_such_module")
        written = self.check(status=1)
        for words in ("ajax.E001", "my_app.endpoints", "no_such_module", "HINT:"):
            self.assertIn(words, written)


#: What makes a check speak: an attribute that names nothing.
BAD_ENDPOINT = """
            from django.contrib.auth.models import Group
            @ajax.register(Group)
            class GroupEndpoint(ajax.ModelEndpoint):
                fields = ["no_such_name"]
            """


class AppTests(ProjectTestCase):
    def listed(self, name):
        self.set(
            f"INSTALLED_APPS.remove('ajax'); INSTALLED_APPS += {[name][: bool(name)]}"
        )

    def test_listed_by_either_name_it_adds_checks_and_unlisted_it_works_too(self):
        self.endpoints(self.FILES["my_app/endpoints.py"] + BAD_ENDPOINT)
        for name in ("ajax", "ajax.AjaxConfig", None):
            self.write({"settings.py": self.FILES["settings.py"]})
            self.listed(name)
            with self.subTest(name=name):
                found = self.script("""
                    from django.core.checks import run_checks
                    answer(
                        post("my_app/category", {"foo": "a", "bar": "b"}),
                        post("my_app/hello"),
                        [each.id for each in run_checks()],
                    )
                    """)
                made = {"pk": 1, "foo": "a", "bar": "b", "baz": "z"}
                ids = ["ajax.E002"] if name else []
                self.assertEqual(found, [[200, made], [200, "hi"], ids])

    def test_the_folder_it_lies_in_is_not_claimed(self):
        self.copy_module("ajax.py")
        self.write({
            "templates/taken.html": "taken",
            "static/taken.css": "",
            "management/__init__.py": "",
            "management/commands/__init__.py": "",
            "management/commands/taken.py": "",
            "models.py": "1 / 0",
        })  # fmt: skip
        self.set("INSTALLED_APPS.append('django.contrib.staticfiles')")
        backend = "django.template.backends.django.DjangoTemplates"
        self.set(f"TEMPLATES = [{{'BACKEND': {backend!r}, 'APP_DIRS': True}}]")
        found = self.script("""
            from django.apps import apps
            from django.contrib.staticfiles import finders
            from django.core.management import get_commands
            from django.template import TemplateDoesNotExist
            from django.template.loader import get_template
            import ajax
            try:
                template = str(get_template("taken.html"))
            except TemplateDoesNotExist:
                template = None
            config = apps.get_app_config("ajax")
            answer(
                ajax.__file__, template, finders.find("taken.css"),
                "taken" in get_commands(), config.models_module, post("my_app/hello"),
            )
            """)
        nothing = [None, None, False, None, [200, "hi"]]
        self.assertEqual(pathlib.Path(found[0]).parent.resolve(), self.folder.resolve())
        self.assertEqual(found[1:], nothing)

    def test_vendored_it_works_under_its_other_name(self):
        self.copy_module("project/vendor/ajax.py")
        self.write({
            "urls.py": """
                from django.urls import include, path
                urlpatterns = [path("ajax/", include("project.vendor.ajax"))]
                """,
            "my_app/endpoints.py": """
                from project.vendor import ajax
                from project.vendor.ajax.exceptions import AJAXError
                from my_app.models import Category
                @ajax.register(Category)
                class CategoryEndpoint(ajax.endpoints.ModelEndpoint):
                    fields = ["foo", "bar", "no_such_name"]
                def fail(request):
                    raise AJAXError(418, "teapot")
                """,
        })  # fmt: skip
        for name in ("project.vendor.ajax", "project.vendor.ajax.AjaxConfig"):
            self.write({"settings.py": self.FILES["settings.py"]})
            self.listed(name)
            with self.subTest(name):
                found = self.script("""
                    from django.core.checks import run_checks
                    from django.urls import reverse
                    answer(
                        post("my_app/fail")[0], post("my_app/ajax")[0],
                        reverse("ajax:endpoint", args=["a", "b"]),
                        [each.id for each in run_checks()], "ajax" in sys.modules,
                    )
                    """)
                self.assertEqual(
                    found, [418, 404, "/ajax/a/b.json", ["ajax.E002"], False]
                )

    def test_a_second_copy_under_another_name_is_e004(self):
        self.copy_module("vendor/ajax.py")
        self.assertNotIn("ajax.E004", self.check())
        self.endpoints("from vendor import ajax")
        written = self.check(status=1)
        for words in ("ajax.E004", "vendor.ajax", "HINT:"):
            self.assertIn(words, written)


# --- The old package ------------------------------------------------------------------


class OldImportTests(ProjectTestCase):
    PATHS = {
        "urls": "urlpatterns",
        "views": "EnvelopedResponse",
        "endpoints": "ModelEndpoint, BaseEndpoint",
        "exceptions": "AJAXError, AlreadyRegistered, NotRegistered",
        "decorators": "login_required, allowed_methods, json_response",
        "encoders": "encoder, DefaultEncoder, IncludeEncoder, ExcludeEncoder",
        "signals": "ajax_created, ajax_deleted, ajax_updated",
        "authentication": "BaseAuthentication",
    }

    def test_each_old_path_may_be_the_first_import_of_a_process(self):
        for old, names in self.PATHS.items():
            with self.subTest(old):
                self.python(
                    "-c",
                    f"from ajax.{old} import {names}\n"
                    f"import ajax.{old} as module, ajax\n"
                    f"assert module is ajax.{old}\n"
                    f"assert ({names},) == (ajax.{names.replace(', ', ', ajax.')},)\n",
                )

    def test_the_first_import_needs_no_settings_and_makes_no_copy(self):
        self.python(
            "-c",
            "import ajax.encoders, ajax.endpoints, ajax, sys\n"
            "assert ajax.encoder is ajax.encoders.encoder\n"
            "assert ajax.endpoint is ajax.endpoints.endpoint\n"
            "assert sys.modules['ajax.encoders'] is ajax.encoders\n",
            DJANGO_SETTINGS_MODULE="no_such_settings",
        )

    def test_a_path_the_old_package_never_had_does_not_exist(self):
        for name in ("models", "nothing", "templatetags"):
            with self.subTest(name), self.assertRaises(ModuleNotFoundError):
                importlib.import_module(f"ajax.{name}")


class OldSnippetTests(ProjectTestCase):
    """The old package's documented examples, as they stand there."""

    def test_ad_hoc_endpoints(self):
        self.endpoints("""
            from ajax.exceptions import AJAXError

            def right_back_at_you(request):
                if len(request.POST):
                    return request.POST
                else:
                    raise AJAXError(500, 'Nothing to echo back.')

            from django.contrib.auth.models import User
            from ajax.endpoints import BaseEndpoint
            from ajax.exceptions import AJAXError

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
                return {
                    'Hello, %s!' % request.user.username
                }
            """)
        found = self.script("""
            answer(
                post("my_app/right_back_at_you", {"name": "Joe Stump", "age": 31}),
                post("my_app/right_back_at_you"),
                post("my_app/my_endpoint", {"user": user.pk}),
                post("my_app/my_endpoint", {"user": 0}),
                post("my_app/my_ajax_endpoint"),
                post("my_app/my_ajax_endpoint", client=Client()),
                post("my_app/MyEndpoint")[0],
            )
            """)
        expected = [
            [200, {"name": "Joe Stump", "age": "31"}],
            [500, {"code": 500, "message": "Nothing to echo back."}],
            [200, {"pk": 1, "username": "ann"}],
            [404, {"code": 404, "message": "Invalid user."}],
            [200, ["Hello, ann!"]],
            [403, {"code": 403, "message": "User must be authenticated."}],
            404,
        ]
        self.assertEqual(found, expected)

    def test_a_model_endpoint(self):
        self.endpoints("""
            import ajax
            from my_app.models import Category

            class CategoryEndpoint(ajax.endpoints.ModelEndpoint):
                pass

            ajax.endpoint.register(Category, CategoryEndpoint)
            """)
        found = self.script("""
            answer(
                post("my_app/category", {"foo": "a", "bar": "b"}),
                post("my_app/category/1/update", {"foo": "c"}),
                post("my_app/category/1/get"),
                post("my_app/category/1/delete"),
                post("my_app/category/1/get"),
                post("my_app/category", client=Client())[0],
            )
            """)
        record = {"pk": 1, "foo": "a", "bar": "b", "baz": "z"}
        gone = {"code": 404, "message": 'Category with id of "1" not found.'}
        expected = [
            [200, record],
            [200, record | {"foo": "c"}],
            [200, record | {"foo": "c"}],
            [200, {"pk": 1}],
            [404, gone],
            403,
        ]
        self.assertEqual(found, expected)

    def test_a_custom_method_and_allowed_methods(self):
        self.endpoints("""
            import ajax
            from ajax.decorators import allowed_methods
            from my_app.models import Category

            class CategoryEndpoint(ajax.endpoints.ModelEndpoint):

                @allowed_methods('get','update','about')
                def authenticate(self,request):
                    return True

                def about(self,request):
                    pk = self.pk
                    if pk:
                        return {"message" : "run an operation on record: %s"
                                            % self._get_record()}
                    else:
                        return {"message" : "run an operation on model: %s"
                                            % self.model.__name__}

            ajax.endpoint.register(Category, CategoryEndpoint)
            """)
        found = self.script("""
            from my_app.models import Category
            pk = Category.objects.create(foo="a").pk
            answer(
                post(f"my_app/category/{pk}/about"), post("my_app/category/about"),
                *[post(f"my_app/category/{each}")[0]
                  for each in ("0/about", f"{pk}/get", f"{pk}/delete", "create")],
            )
            """)
        first = [200, {"message": "run an operation on record: a"}]
        second = [200, {"message": "run an operation on model: Category"}]
        self.assertEqual(found, [first, second, 404, 200, 403, 403])

    def test_encoders(self):
        for encoder, shown in (
            ("IncludeEncoder(include=['foo', 'bar'])", {"foo": "a", "bar": "b"}),
            ("ExcludeEncoder(exclude=['foo'])", {"bar": "b", "baz": "z"}),
        ):
            name = encoder.partition("(")[0]
            registering = f"""
                import ajax
                from ajax.encoders import encoder, {name}
                from my_app.models import Category

                encoder.register(Category, {encoder})
                ajax.endpoint.register(Category, ajax.endpoints.ModelEndpoint)
                """
            self.endpoints(registering)
            with self.subTest(encoder):
                found = self.script("""
                    from ajax.encoders import encoder
                    from my_app.models import Category
                    record = Category.objects.create(foo="a", bar="b")
                    answer(post("my_app/category/1/get"), encoder.encode(record))
                    """)
                record = {"pk": 1, **shown}
                self.assertEqual(found, [[200, record], record])


# --- The demo -------------------------------------------------------------------------


class DemoTests(ProjectTestCase):
    FILES = {}

    def start(self, *arguments):
        """Start the demo; return its process, its curl line and its page."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # A shell that runs the tests in the background has them ignore SIGINT; the
        # demo would inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            self.command(*arguments, str(port)),
            cwd=self.folder,
            env=self.environment(DJANGO_SETTINGS_MODULE="no_such_settings"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        signal.signal(signal.SIGINT, before)
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        for cleanup in (
            process.stdout.close,
            process.wait,
            process.kill,
            watchdog.cancel,
        ):
            self.addCleanup(cleanup)
        line, page = process.stdout.readline(), f"http://127.0.0.1:{port}/"
        for written in process.stdout:
            if page in written:
                return process, line, page
        self.fail(line)

    def curl(self, line):
        done = subprocess.run(line, shell=True, capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def assert_serves_many_at_once(self, line):
        line = line.replace("1/get", "1/update").replace("''", "title=Newest")
        line = line.replace("curl ", "curl --silent ")
        calls = [
            subprocess.Popen(line, shell=True, stdout=subprocess.PIPE) for _ in range(8)
        ]
        replies = [json.loads(call.communicate(timeout=60)[0]) for call in calls]
        self.assertEqual([reply["success"] for reply in replies], [True] * 8)

    def assert_serves(self, *arguments, has_tags=True):
        process, curl, page = self.start(*arguments)
        reply = self.curl(curl)
        self.assertIs(reply["success"], True)
        self.assertEqual(reply["data"]["author"]["username"], "demo")
        self.assertEqual("tags" in reply["data"], has_tags)
        for path, data in (
            ("whoami", ""),
            ("category/list", ""),
            ("post", "title=New&category=1"),
            ("post/1/update", "title=Newer"),
        ):
            line = curl.replace("post/1/get", path).replace("''", f"'{data}'")
            self.assertIs(self.curl(line)["success"], True)
        with urlopen(page) as answer:
            self.assertIn("csrfmiddlewaretoken", answer.read().decode())
        # Browsers open connections ahead; one is open when the demo ends.
        ahead = socket.create_connection(("127.0.0.1", urlsplit(page).port))
        self.addCleanup(ahead.close)
        self.assert_serves_many_at_once(curl)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=60), 0)

    def test_the_module_serves_it(self):
        self.assert_serves("-m", "ajax")

    def test_the_file_serves_it(self):
        self.assert_serves(ajax.__file__)

    def test_it_does_without_taggit(self):
        self.write({"sitecustomize.py": "import sys; sys.modules['taggit'] = None"})
        self.assert_serves("-m", "ajax", has_tags=False)

    def test_a_taken_port_is_a_clear_line(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            written = self.python("-m", "ajax", port, status=1)
        self.assertIn("port is already in use", written)


# --- The public names -----------------------------------------------------------------


def is_ours(value):
    return getattr(value, "__module__", None) == ajax.__name__


class PublicNameTests(SimpleTestCase):
    DOCUMENTED = """
        AJAXError AjaxConfig AlreadyRegistered BaseAuthentication BaseEndpoint
        DefaultEncoder EnvelopedResponse ExcludeEncoder FormEndpoint HTMLEscapeEncoder
        IncludeEncoder ModelEndpoint NotRegistered ajax_created ajax_deleted
        ajax_updated allowed_methods app_name encoder endpoint json_response
        login_required register urlpatterns
        """

    def test_all_lists_every_documented_name_and_no_other(self):
        self.assertEqual(sorted(ajax.__all__), sorted(self.DOCUMENTED.split()))
        for name in ajax.__all__:
            self.assertTrue(hasattr(ajax, name), name)

    def test_every_public_class_function_and_method_is_documented(self):
        found = {getattr(ajax, name) for name in ajax.__all__ if name != "urlpatterns"}
        found = {each if hasattr(each, "__mro__") else type(each) for each in found}
        ours = {base for each in found for base in each.__mro__ if is_ours(base)}
        missing = [
            f"{base.__name__}.{name}"
            for base in ours
            for name, value in vars(base).items()
            if is_ours(value) or isinstance(value, property)
            if not (name.startswith("_") or inspect.getdoc(getattr(base, name)))
        ]
        missing += [n for n in ajax.__all__ if not inspect.getdoc(getattr(ajax, n))]
        self.assertEqual(missing, [])


# --- Models and endpoints for the edges -----------------------------------------------


class Shade(models.TextChoices):
    DARK = "dark"
    LIGHT = "light"


class ShadeField(models.CharField):
    """A field whose Python value is not what the database gives."""

    def from_db_value(self, value, expression, connection):
        return Shade(value)


class NoUrlStorage(Storage):
    """Files that can be kept, but have no URL."""

    def _save(self, name, content):
        return name

    def exists(self, name):
        return False


class Lamp(models.Model):
    shade = ShadeField(max_length=10, default="dark")
    manual = models.FileField(storage=NoUrlStorage(), blank=True)
    icon = models.FilePathField(path=os.path.dirname(__file__), match=r"^test_ajax\.")
    makers = models.ManyToManyField(User, through="LampMaker")
    category = models.ForeignKey(Category, models.CASCADE)
    tags = TaggableManager(blank=True, ordering=["-name"])


class LampMaker(models.Model):
    lamp = models.ForeignKey(Lamp, models.CASCADE)
    user = models.ForeignKey(User, models.CASCADE)


class LiveManager(models.Manager):
    """Hides rows in the one place where few would look for it."""

    def all(self):
        return super().all().exclude(name="dead")


class Wire(models.Model):
    name = models.CharField(max_length=2000, primary_key=True)
    length = models.IntegerField(default=0)
    born = models.DateField(null=True, blank=True)
    lamps = models.ManyToManyField(Lamp, blank=True)
    tags = TaggableManager(blank=True, through="WireTag")
    objects = LiveManager()


class Spark(models.Model):
    tags = TaggableManager(blank=True, through="WireTag")


class WireTag(CommonGenericTaggedItemBase, TaggedItemBase):
    """A through table with text for keys, as taggit documents it."""

    object_id = models.CharField(max_length=50, db_index=True)


class ListField(models.TextField):
    """Reads like PostgreSQL's ArrayField, on any database."""

    base_field = models.IntegerField()

    def to_python(self, value):
        if not isinstance(value, str):
            return value
        return [self.base_field.to_python(each) for each in json.loads(value)]

    def from_db_value(self, value, expression, connection):
        return json.loads(value)

    def get_prep_value(self, value):
        return json.dumps(value)


class Span:
    """Looks like the ranges of PostgreSQL's drivers."""

    lower_inc = True

    def __str__(self):
        return "[1, 5)"


class SpanField(models.CharField):
    range_type = Span

    def from_db_value(self, value, expression, connection):
        return Span()


class Ruler(models.Model):
    marks = ListField(default=list)
    span = SpanField(max_length=10, default="[1,5)")
    data = models.JSONField(default=dict)


@ajax.register(Ruler)
class RulerEndpoint(ajax.ModelEndpoint):
    list_filter = ["data__k"]

    def can_list(self, user):
        return True


class Vault(models.Model):
    secret = models.CharField(max_length=10, default="s3cret")
    label = models.CharField(max_length=10, default="v")


class SafeVault(Vault):
    steel = models.BooleanField(default=True)

    def __len__(self):
        return 0


class Keyring(models.Model):
    opens = models.ForeignKey(SafeVault, models.CASCADE)


@ajax.register(Vault)
class VaultEndpoint(ajax.ModelEndpoint):
    exclude = ["secret"]


ajax.endpoint.register(Keyring)


class Switch(models.Model):
    on = models.BooleanField(primary_key=True)


class BareField(models.PositiveIntegerField):
    """A field that leaves what is beyond it to the database."""

    validators = ()


class Medal(models.Model):
    number = BareField(primary_key=True)


class Moment(models.Model):
    at = models.DateTimeField(primary_key=True)


@ajax.register(Lamp)
class LampEndpoint(ajax.ModelEndpoint):
    sortable_by = ["pk", "shade"]

    def can_list(self, user):
        return True

    def can_create(self, user, record):
        return record.category.title != "Closed"

    def prepare_record(self, request, record, created):
        if self.request.headers.get("X-Category"):
            record.category = Category.objects.get(title="News")

    def list(self, request):
        page = super().list(request)
        for each in page.data:
            each["is_first"] = each is page.data[0]
        return page

    def dim(self, request):
        return {"pk": self._get_record().pk}


@ajax.register(Wire, Spark)
class WireEndpoint(ajax.ModelEndpoint):
    def can_list(self, user):
        return True

    def get_field_queryset(self, request, field):
        return super().get_field_queryset(request, field).filter(shade="light")

    @classmethod
    def helper(cls, request):
        """Not an operation: a method of the class."""


class NumberedEndpoint(WireEndpoint):
    fields = ["name", "length", "lamps", "tags"]
    search_fields = ["name", "length__exact"]
    list_filter = [
        *("name__icontains", "length__isnull", "length__gt"),
        "born__year",
    ]


ajax.endpoint.unregister(Wire)
ajax.endpoint.register(Wire, NumberedEndpoint)
ajax.endpoint.register([Switch, Moment, Medal])


class LampForm(forms.ModelForm):
    class Meta:
        model = Lamp
        fields = ["shade", "category"]


class WishForm(forms.Form):
    wish = forms.CharField()
    more = forms.JSONField(required=False)
    makers = forms.ModelMultipleChoiceField(User.objects.all(), required=False)

    def save(self):
        return {"granted": self.cleaned_data["wish"]}


@ajax.register(LampForm, WishForm)
class LampFormEndpoint(ajax.FormEndpoint):
    pass


class EdgeTests(AjaxTestCase):
    def setUp(self):
        super().setUp()
        self.icon = os.path.join(os.path.dirname(__file__), "test_ajax.py")
        self.lamp = Lamp.objects.create(category=self.news, manual="m.pdf")
        self.path = f"shop/lamp/{self.lamp.pk}"

    def serve(self, model, endpoint_class, has_encoder=None):
        """Serve a model by another endpoint class, and encoder, for this test."""
        before = ajax.endpoint.find(model)
        ajax.endpoint.unregister(model)
        self.addCleanup(ajax.endpoint.register, model, before)
        ajax.endpoint.register(model, endpoint_class)
        self.addCleanup(ajax.endpoint.unregister, model)

    def test_a_value_that_a_field_converts_and_a_file_without_url(self):
        data = self.post(f"{self.path}/get")["data"]
        self.assertEqual((data["shade"], data["manual"]), ("dark", None))

    def test_an_operation_may_add_to_the_page_of_list(self):
        data = self.post("shop/lamp/list", {"order_by": "-pk"})["data"]
        self.assertIs(data[0]["is_first"], True)

    def test_tags_come_in_the_order_of_their_manager(self):
        self.lamp.tags.add("a", "c", "b")
        names = [each["name"] for each in self.post(f"{self.path}/get")["data"]["tags"]]
        self.assertEqual(names, ["c", "b", "a"])

    def test_many_to_many_through_a_model_of_its_own_is_shown_not_written(self):
        LampMaker.objects.create(lamp=self.lamp, user=self.user)
        data = self.post(f"{self.path}/update", {"makers": [], "shade": "light"})[
            "data"
        ]
        self.assertEqual((data["makers"], data["shade"]), ([self.user.pk], "light"))

    def test_a_file_path_is_one_of_its_folder(self):
        self.errors(f"{self.path}/update", {"icon": "/etc/passwd"})
        data = self.post(f"{self.path}/update", {"icon": self.icon})["data"]
        self.assertEqual(data["icon"], self.icon)

    def test_a_hook_that_misses_a_relation_refuses(self):
        self.post("shop/lamp", {"icon": self.icon}, status=403)

    def test_what_prepare_record_puts_in_the_place_of_a_key_is_validated(self):
        sent = {"category": self.local.pk, "icon": self.icon}
        data = self.post("shop/lamp", sent, headers={"X-Category": "News"})["data"]
        self.assertEqual(data["category"]["title"], "News")

    def test_an_operation_that_needs_a_record_is_a_400_without_one(self):
        self.post("shop/lamp/dim", status=400)
        self.assertEqual(self.post(f"{self.path}/dim")["data"], {"pk": self.lamp.pk})

    def test_unknown_keys_of_a_list_are_told_but_not_all_of_a_flood(self):
        errors = self.errors("shop/lamp/list", {f"key{n}": 1 for n in range(50)})
        self.assertEqual(len(errors), 20)

    def test_unknown_keys_of_a_tags_command_are_refused(self):
        errors = self.errors(f"{self.path}/tags/add", {"tags": ["a"], "tag": "b"})
        self.assertEqual(list(errors), ["tag"])
        self.assertFalse(self.lamp.tags.exists())

    def test_a_refused_record_is_not_got_nor_like_others(self):
        class Refusing(ajax.ModelEndpoint):
            def can_get(self, user, record):
                return False

        self.serve(Lamp, Refusing)
        self.post(f"{self.path}/get", status=403)
        self.post(f"{self.path}/tags/similar", status=403)

    def test_related_records_where_get_queryset_has_none_are_pks(self):
        class Empty(ajax.ModelEndpoint):
            def get_queryset(self, request):
                return super().get_queryset(request).none()

        self.serve(Category, Empty)
        data = self.post(f"{self.path}/get")["data"]
        self.assertEqual(data["category"], self.news.pk)

    def test_a_name_in_fields_that_is_nothing_is_an_error(self):
        class Misnamed(ajax.ModelEndpoint):
            fields = ["shade", "shadow"]

        self.serve(Lamp, Misnamed)
        self.post(f"{self.path}/get", status=500)

    def test_keys_of_unusual_types(self):
        Switch.objects.create(on=True)
        self.assertEqual(self.post("shop/switch/True/get")["data"], {"pk": True})
        self.post("shop/switch/False/get", status=404)
        self.post("shop/moment/0001-01-01T00:00:00+14:00/get", status=404)
        self.post("shop/moment/2024-01-01T00:00:00Z/get", status=404)

    def test_a_key_beyond_its_column_is_no_record_and_spoils_nothing(self):
        Medal.objects.create(number=3)
        self.post("shop/medal/-1/get", status=404)
        self.assertEqual(self.post("shop/medal/3/get")["data"], {"pk": 3})

    def test_a_record_that_can_get_allows_is_got_in_one_query(self):
        class Looking(ajax.ModelEndpoint):
            def can_get(self, user, record):
                return self.record == record and record.shade == "dark"

        self.serve(Lamp, Looking)
        self.post(f"{self.path}/get")
        with self.assertNumQueries(2 + 1 + 2):  # The tags and the makers, too.
            self.post(f"{self.path}/get")

    def test_the_record_is_not_there_yet_in_get_queryset(self):
        class Curious(ajax.ModelEndpoint):
            def get_queryset(self, request):
                assert self.record is None
                return super().get_queryset(request)

        self.serve(Lamp, Curious)
        self.post(f"{self.path}/dim", status=404)
        self.post(f"{self.path}/delete")

    def test_lists_of_names_are_inherited_as_python_does(self):
        class Hiding(ajax.ModelEndpoint):
            exclude = ["shade"]

        class Titled(ajax.ModelEndpoint):
            pass

        class Both(Titled, Hiding):
            pass

        self.serve(Lamp, Both)
        self.assertNotIn("shade", self.post(f"{self.path}/get")["data"])

    def test_order_by_is_text_or_a_list_and_nothing_is_no_order(self):
        self.post("shop/lamp/list", {"order_by": ""}, form=True)
        self.post("shop/lamp/list", {"order_by": ["pk", "-shade"]})
        for order in (5, [5], "pk," * 11, "secret"):
            with self.subTest(order):
                errors = self.errors("shop/lamp/list", {"order_by": order})
                self.assertEqual(list(errors), ["order_by"])

    def test_junk_sizes_and_pages_are_the_defaults(self):
        for junk in (True, "1_0", [1, 2], None, "ten"):
            with self.subTest(junk):
                reply = self.post("shop/lamp/list", {"items_per_page": junk})
                self.assertEqual(reply["items_per_page"], 20)

    def test_a_form_of_no_app_cannot_be_served(self):
        lost = type("Lost", (forms.Form,), {"__module__": "nowhere"})
        with self.assertRaisesMessage(ImproperlyConfigured, "Lost"):
            ajax.endpoint.register(lost)

    @override_settings(USE_TZ=False)
    def test_without_time_zones_an_offset_is_taken_into_account(self):
        path = f"shop/article/{self.article.pk}/update"
        for sent in ("2024-01-01T02:00:00+02:00", "2024-01-01T00:00:00"):
            data = self.post(path, {"created": sent})["data"]
            self.assertEqual(data["created"], "2024-01-01T00:00:00")

    def test_a_model_form_saves_and_answers_its_record(self):
        data = self.post("shop/lampform", {"shade": "light", "category": self.news.pk})
        self.assertEqual(data["data"]["pk"], Lamp.objects.latest("pk").pk)
        self.assertEqual(data["data"]["category"]["title"], "News")

    def test_a_form_answers_what_its_save_returns(self):
        reply = self.post("shop/wishform", {"wish": "light"})
        self.assertEqual(reply["data"], {"granted": "light"})

    def test_a_form_refuses_what_its_fields_cannot_take(self):
        for key, value in [("more", "1" * 5000), ("more", "["), ("makers", 2**64)]:
            with self.subTest(key):
                sent = {"wish": "light", key: value}
                self.post("shop/wishform", sent, status=400, form=True)
        self.post("shop/wishform", {"wish": "w", "makers": 2**64}, status=400)
        self.post("shop/wishform", {"wish": "w", "more": '{"a": 1}'}, form=True)
        self.post("shop/wishform", {"wish": "w", "more": {"a": [1]}})

    def test_a_vanished_row_is_a_conflict(self):
        with mock.patch.object(Lamp, "save", side_effect=DatabaseError("no rows")):
            self.post(f"{self.path}/update", {"shade": "light"}, status=409)

    def test_a_database_that_locks_rows_reads_what_it_locks(self):
        # Where there is no such database, SQLite plays it, without the words of SQL.
        with (
            mock.patch.object(connection.features, "has_select_for_update", True),
            mock.patch.object(connection.ops, "for_update_sql", return_value=""),
        ):
            data = self.post(f"{self.path}/update", {"shade": "light"})["data"]
            self.assertEqual(data["shade"], "light")
            self.serve(
                Lamp,
                type(
                    "Own",
                    (LampEndpoint,),
                    {"get_queryset": lambda *args: Lamp.objects.distinct()},
                ),
            )
            data = self.post(f"{self.path}/update", {"shade": "dark"})["data"]
            self.assertEqual(data["shade"], "dark")

    def test_allowed_methods_limits_operations(self):
        class ReadOnly(ajax.ModelEndpoint):
            @ajax.allowed_methods("get")
            def authenticate(self, request):
                return True

        self.serve(Lamp, ReadOnly)
        self.post(f"{self.path}/get")
        self.post(f"{self.path}/delete", status=403)

    def test_an_endpoint_class_has_to_fit_what_it_serves(self):
        with self.assertRaisesMessage(ImproperlyConfigured, "FormEndpoint"):
            ajax.endpoint.register(ContactForm, ajax.ModelEndpoint)
        with self.assertRaisesMessage(ImproperlyConfigured, "'Lamp' is neither"):
            ajax.endpoint.register("Lamp")

    def test_text_is_no_list_of_names(self):
        class Unsure(ajax.ModelEndpoint):
            fields = "title"

        self.serve(Category, Unsure)
        found = [each for each in ajax.check_ajax() if each.obj is Unsure]
        self.assertEqual([each.id for each in found], ["ajax.E002"])
        Unsure.fields = None
        ajax._kept_plan.cache_clear()
        self.post(f"shop/category/{self.news.pk}/get")


class RulerTests(AjaxTestCase):
    def setUp(self):
        super().setUp()
        self.ruler = Ruler.objects.create(marks=[1], data={"k": "5"})
        self.path = f"shop/ruler/{self.ruler.pk}/update"

    def test_an_array_is_read_value_by_value(self):
        self.assertEqual(
            self.post(self.path, {"marks": [2, "3"]})["data"]["marks"], [2, 3]
        )
        self.assertEqual(
            self.post(self.path, {"marks": "[4]"}, form=True)["data"]["marks"], [4]
        )
        for marks in (["x"], [[1]], 5, True):
            with self.subTest(marks):
                self.errors(self.path, {"marks": marks})

    def test_a_range_is_shown_not_written(self):
        self.assertEqual(self.post(self.path, {"span": "x"})["data"]["span"], "[1, 5)")
        self.assertFalse(Ruler.objects.filter(span="x").exists())

    def test_text_in_json_is_found_as_text(self):
        found = self.post("shop/ruler/list", {"data__k": "5"})["data"]
        self.assertEqual([each["pk"] for each in found], [self.ruler.pk])


class HostileTests(AjaxTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        for name, length in [("copper", 7), ("iron", 8), ("dead", 7)]:
            Wire(name=name, length=length).save()
        cls.lamp = Lamp.objects.create(category=cls.news)

    def names(self, sent):
        return [each["pk"] for each in self.post("shop/wire/list", sent)["data"]]

    def test_a_search_for_a_number_leaves_out_numbers_where_it_is_none(self):
        self.assertEqual(self.names({"search": "7"}), ["copper"])
        self.assertEqual(self.names({"search": "iron"}), ["iron"])

    def test_texts_that_would_take_for_ever_are_refused(self):
        for text in ['x\\" ' * 20_000, "a" * 60_000, "a " * 11]:
            with self.subTest(text[:9]):
                self.errors("shop/wire/list", {"search": text})
        self.errors("shop/wire/list", {"name__icontains": "a" * 60_000})

    def test_values_that_no_lookup_takes_are_refused(self):
        huge = "9" * 20
        for sent in (
            {"length__gt": [[1]]},
            {"name__icontains": [["", ""]]},
            {"born__year": "--5"},
            {"born__year": huge},
            {"born__year": 1e308},
        ):
            with self.subTest(sent):
                self.errors("shop/wire/list", sent)
        self.assertEqual(self.names({"name__icontains": 1}), [])

    def test_functions_and_operations_meet_no_text_that_cannot_be_stored(self):
        for path in ("hello", "article/count"):
            for text in ("a\0b", "\ud800"):
                with self.subTest(path, text=ascii(text)):
                    self.post(f"shop/{path}", {"name": [text]}, status=400)
                    self.post(f"shop/{path}", {text: 1}, status=400)
            self.post(f"shop/{path}", {"name": "a\0b"}, status=400, form=True)

    def test_a_charset_that_takes_for_ever_is_refused(self):
        kind = "multipart/form-data; boundary=x; charset=punycode"
        self.post("shop/wire/list", "b" + "a" * 99, status=400, content_type=kind)

    def test_uploads_in_the_place_of_values_are_refused(self):
        for path, key in [
            ("wire/copper/update", "lamps"),
            ("wire/list", "length__isnull"),
        ]:
            with self.subTest(path):
                upload = SimpleUploadedFile("[1]", b"x")
                self.errors(f"shop/{path}", {key: upload}, form=True)

    def test_a_row_that_the_manager_hides_does_not_exist(self):
        for operation in ("get", "update", "delete"):
            self.post(f"shop/wire/dead/{operation}", status=404)
        self.assertEqual(self.post("shop/wire/list")["total"], 2)

    def test_what_a_parents_endpoint_hides_is_hidden_of_its_children(self):
        ring = Keyring.objects.create(opens=SafeVault.objects.create())
        data = self.post(f"shop/keyring/{ring.pk}/get")["data"]["opens"]
        self.assertEqual(data.keys(), {"pk", "label", "steel"})

    def test_a_record_that_is_false_is_a_record(self):
        vault = SafeVault.objects.create()
        data = self.post("shop/keyring", {"opens": vault.pk})["data"]
        self.assertEqual(data["opens"]["pk"], vault.pk)
        ring = Keyring.objects.select_related("opens").get(pk=data["pk"])
        self.assertEqual(ajax.encoder.encode(ring), data)

    def test_a_class_method_is_no_operation(self):
        self.post("shop/wire/copper/get")
        self.post("shop/wire/helper", status=404)

    def test_members_that_are_there_may_stay_but_no_others_come(self):
        Wire.objects.get(name="copper").lamps.add(self.lamp)
        other = Lamp.objects.create(category=self.news)
        path = "shop/wire/copper/update"
        data = self.post(path, {"lamps": [self.lamp.pk]})["data"]
        self.assertEqual(data["lamps"], [self.lamp.pk])
        self.errors(path, {"lamps": [self.lamp.pk, other.pk]})
        self.errors("shop/wire/iron/update", {"lamps": [self.lamp.pk]})

    def test_tags_whose_generic_key_is_text(self):
        one, two = Spark.objects.create(), Spark.objects.create()
        for each in (one, two):
            each.tags.add("hot")
        found = self.post("shop/spark/list", {"tags": ["hot"]})["data"]
        self.assertEqual([each["pk"] for each in found], [one.pk, two.pk])
        similar = self.post(f"shop/spark/{one.pk}/tags/similar")["data"]
        self.assertEqual([each["pk"] for each in similar], [two.pk])

    def test_what_is_too_large_for_an_index_is_a_400(self):
        error = OperationalError("index row requires 20016 bytes")
        error.__cause__ = type("Refusal", (Exception,), {"sqlstate": "54000"})()
        with mock.patch.object(Lamp, "save", side_effect=error):
            self.post(
                f"shop/lamp/{self.lamp.pk}/update", {"shade": "light"}, status=400
            )


class EncoderRegistryTests(AjaxTestCase):
    def speak(self, model, encoder):
        ajax.encoder.register(model, encoder)
        self.addCleanup(ajax.encoder.unregister, model)

    def test_one_encoder_speaks_for_a_model(self):
        self.assertFalse(ajax.encoder.is_registered(Category))
        with self.assertRaisesMessage(ajax.NotRegistered, "shop.Category"):
            ajax.encoder.unregister(Category)
        self.speak(Category, ajax.ExcludeEncoder(exclude=["parent"]))
        self.assertTrue(ajax.encoder.is_registered(Category))
        with self.assertRaisesMessage(ajax.AlreadyRegistered, "shop.Category"):
            ajax.encoder.register(Category, ajax.DefaultEncoder)
        self.assertEqual(
            self.post(f"shop/category/{self.news.pk}/get")["data"],
            {"pk": self.news.pk, "title": "News"},
        )

    def test_an_encoder_may_say_it_in_a_word_and_escape_by_itself(self):
        def shout(record, html_escape=False):
            return "ESCAPED" if html_escape else record.title.upper()

        self.speak(Category, shout)
        self.assertEqual(ajax.encoder.encode(self.news), "NEWS")
        self.assertEqual(ajax.encoder.encode(self.news, html_escape=True), "ESCAPED")
        found = self.post(f"shop/article/{self.article.pk}/get")["data"]
        self.assertEqual(found["category"], "LOCAL")

    def test_a_key_that_cannot_be_one_is_invalid(self):
        article = Article(category_id="junk", price=Decimal(1), title="T")
        with self.assertRaises(ValidationError):
            ajax.encoder.encode(article)


class EdgeOfDiscoveryTests(DeskTestCase):
    def test_the_user_of_the_request_may_be_returned(self):
        source = "def me(request): return {'me': request.user, 'all': [request.user]}"
        with self.app(deskme=source):
            data = self.post("deskme/me")["data"]
        shown = {"pk": self.user.pk, "username": "ann"}
        self.assertEqual(data, {"me": shown, "all": [shown]})

    def test_helpers_that_want_more_than_a_request_are_not_exposed(self):
        source = "def helper(request, more): pass\ndef hello(request): return 1"
        with self.app(deskhelp=source):
            self.post("deskhelp/helper", status=404)
            self.post("deskhelp/hello")

    def test_a_module_that_is_this_one_offers_nothing(self):
        with self.app(deskself="import sys, ajax; sys.modules[__name__] = ajax"):
            self.post("deskself/not_found", status=404)
            self.post("deskself/dispatch", status=404)

    def test_an_exit_while_importing_is_remembered_as_a_failure(self):
        with self.app(deskexit="raise SystemExit(3)"):
            with self.assertRaises(SystemExit):
                self.client.post("/ajax/shop/hello.json")
            self.post("shop/hello", status=500)


# --- README ---------------------------------------------------------------------------

README = Path(__file__).with_name("README.md")

README_SITE = """
import json, os, sys
from django.conf import global_settings, settings
import site_settings
settings.configure(**{n: v for n, v in vars(site_settings).items() if n.isupper()})
import django
django.setup()
from django.core import management, checks
assert not checks.run_checks(), checks.run_checks()
management.call_command("migrate", run_syncdb=True, verbosity=0)
from blog.models import Category, Post
from django.contrib.auth.models import User
from django.test import Client
ann = User.objects.create_user("ann")
news = Category.objects.create(title="News")
Post.objects.create(category=news, author=ann, title="Hello", body="World")
client = Client()
client.force_login(ann)
def post(path, data):
    answer = client.post(path, json.dumps(data), "application/json")
    print(json.dumps([answer.status_code, answer.json()]))
post("/ajax/blog/hello.json", {"name": "Ann"})
post("/ajax/blog/publish_all.json", {})
tags = ["django", "news"]
post("/ajax/blog/post/1/update.json", {"title": "Hello again", "tags": tags})
"""

README_SETTINGS = """
SECRET_KEY = "readme"
ROOT_URLCONF = "urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "taggit",
    "blog",
]
"""


class ReadmeTests(SimpleTestCase):
    def blocks(self, language):
        pattern = rf"^```{language}\n(.*?)^```$"
        return re.findall(pattern, README.read_text(), re.DOTALL | re.MULTILINE)

    def write_site(self, folder):
        """Write the files that the README names, each block after the other."""
        files = {"blog/__init__.py": "", "site_settings.py": README_SETTINGS}
        for block in self.blocks("python"):
            named = re.match(r"# (\S+\.py)\n", block)
            if named:
                name = named[1].replace("settings.py", "site_settings.py")
                files[name] = f"{files.get(name, '')}\n{block}"
        (folder / "blog").mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)

    def test_every_python_block_compiles(self):
        for number, block in enumerate(self.blocks("python")):
            with self.subTest(number):
                compile(block, f"README block {number}", "exec")

    def test_the_readmes_site_runs_and_answers_as_it_says(self):
        with tempfile.TemporaryDirectory() as folder:
            self.write_site(Path(folder))
            where = os.pathsep.join([folder, str(Path(ajax.__file__).parent)])
            ran = subprocess.run(
                [sys.executable, "-W", "error", "-c", README_SITE],
                cwd=folder, env=os.environ | {"PYTHONPATH": where}, text=True,
                capture_output=True, timeout=60, check=False,
            )  # fmt: skip
        self.assertEqual(ran.returncode, 0, ran.stderr)
        answers = [json.loads(line) for line in ran.stdout.splitlines()]
        said = [json.loads(each) for each in self.blocks("json")]
        by_update = next(each for each in said if "Hello again" in str(each))
        by_update["data"]["created"] = answers[2][1]["data"]["created"]
        self.assertEqual(answers[0], [200, {"success": True, "data": {"hello": "Ann"}}])
        self.assertEqual([status for status, _reply in answers], [200, 403, 200])
        for _status, reply in [answers[0], answers[1], [200, by_update]]:
            self.assertIn(reply, said)
        self.assertEqual(answers[2][1], by_update)


# --- The benchmark --------------------------------------------------------------------
#
# What an expert would write by hand for the same work, called the same way: by POST, as
# a logged-in user, through the whole middleware stack.

HAND_ARTICLE = ("pk", "title", "body", "published", "created", "price", "rating")
HAND_COLUMNS = (
    *HAND_ARTICLE,
    "category__pk",
    "category__title",
    "category__parent",
    "author__pk",
    "author__username",
)


def hand_written(view):
    """Answer JSON to logged-in users; the CSRF check is the middleware's."""

    def answered(request, **kwargs):
        if request.method != "POST" or not request.user.is_authenticated:
            return JsonResponse({"error": "log in and POST"}, status=403)
        return view(request, **kwargs)

    return answered


def hand_rows(queryset):
    rows = {}
    for values in queryset.values_list(*HAND_COLUMNS):
        row = dict(zip(HAND_ARTICLE, values[:7], strict=True))
        row["category"] = {"pk": values[7], "title": values[8], "parent": values[9]}
        row["author"] = {"pk": values[10], "username": values[11]}
        row["readers"], row["tags"] = [], []
        rows[values[0]] = row
    readers = Article.readers.through.objects.filter(article__in=rows)
    for pk, user in readers.values_list("article_id", "user_id"):
        rows[pk]["readers"].append(user)
    kind = ContentType.objects.get_for_model(Article)
    tagged = TaggedItem.objects.filter(content_type=kind, object_id__in=rows)
    columns = ("object_id", "tag__pk", "tag__name", "tag__slug")
    for pk, *tag in tagged.values_list(*columns):
        names = ("pk", "name", "slug")
        rows[pk]["tags"].append(dict(zip(names, tag, strict=True)))
    return list(rows.values())


def hand_sent(request):
    names = {"category": "category_id"}
    sent = {names.get(key, key): value for key, value in request.POST.items()}
    return {"author": request.user, **sent}


@hand_written
def hand_get(request, pk):
    rows = hand_rows(Article.objects.filter(pk=pk))
    if not rows:
        return JsonResponse({"error": "not found"}, status=404)
    return JsonResponse(rows[0])


@hand_written
def hand_list(request):
    size = min(int(request.POST["items_per_page"]), 10_000)
    articles = Article.objects.all()
    rows = hand_rows(articles.order_by("-created", "pk")[:size])
    return JsonResponse({"total": articles.count(), "data": rows})


@hand_written
def hand_create(request):
    article = Article(**hand_sent(request))
    try:
        article.full_clean()
    except ValidationError as error:
        return JsonResponse({"errors": error.message_dict}, status=400)
    article.save()
    return JsonResponse({"pk": article.pk, "title": article.title})


@hand_written
def hand_update(request, pk):
    article = Article.objects.filter(pk=pk).first()
    article.title = request.POST["title"]
    article.full_clean(
        exclude=[f.name for f in Article._meta.fields if f.name != "title"]
    )
    article.save(update_fields=["title"])
    return JsonResponse({"pk": article.pk, "title": article.title})


@hand_written
def hand_tags(request, pk):
    article = Article.objects.filter(pk=pk).first()
    article.tags.add(*(name.strip() for name in request.POST["tags"].split(",")))
    return JsonResponse({"tags": list(article.tags.names())})


urlpatterns += [
    path("hand/list", hand_list),
    path("hand/create", hand_create),
    path("hand/<int:pk>/get", hand_get),
    path("hand/<int:pk>/update", hand_update),
    path("hand/<int:pk>/tags", hand_tags),
]


def bench_data(count):
    """Create `count` articles, 20 categories, 50 users, 30 tags; return a user."""
    users = User.objects.bulk_create(User(username=f"user{n}") for n in range(50))
    categories = Category.objects.bulk_create(Category(title=f"{n}") for n in range(20))
    tags = Tag.objects.bulk_create(
        Tag(name=f"tag{n}", slug=f"tag{n}") for n in range(30)
    )
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
    articles = Article.objects.bulk_create(
        Article(
            category=categories[n % 20], author=users[n % 50], title=f"Article {n}",
            body="Lorem ipsum “dolor” sit amet. " * 16, price=Decimal(n) / 100,
            rating=n / 7, created=start + datetime.timedelta(minutes=n),
        )
        for n in range(count)
    )  # fmt: skip
    kind = ContentType.objects.get_for_model(Article)
    TaggedItem.objects.bulk_create(
        TaggedItem(content_type=kind, object_id=article.pk, tag=tags[(n * 7 + k) % 28])
        for n, article in enumerate(articles)
        for k in range(3)
    )
    return users[0], articles[count // 2].pk


def bench_operations(pk, category):
    """Return (name, path of ajax.py, path by hand, what is sent) of each operation."""
    new = {"title": "New", "body": "b" * 500, "price": "9.50", "category": category}
    bad = new | {"price": "x"}
    one, hand = f"/ajax/shop/article/{pk}", f"/hand/{pk}"
    lists = [
        (
            f"list of {n}",
            "/ajax/shop/article/list.json",
            "/hand/list",
            {"items_per_page": n},
        )
        for n in (20, 100, 1000)
    ]
    return [
        ("get", f"{one}/get.json", f"{hand}/get", {}),
        *lists,
        ("create", "/ajax/shop/article.json", "/hand/create", new),
        ("create, not valid", "/ajax/shop/article.json", "/hand/create", bad),
        ("update", f"{one}/update.json", f"{hand}/update", {"title": "Newer"}),
        ("tags add", f"{one}/tags/add.json", f"{hand}/tags", {"tags": "tag28,tag29"}),
    ]  # fmt: skip


class Bench:
    """Calls both sides in turn, each request in a transaction that is rolled back."""

    def __init__(self, user):
        self.client = Client()
        self.client.force_login(user)
        self.handler = self.client.handler

    def call(self, path, sent):
        with transaction.atomic():
            response = self.client.post(path, sent)
            transaction.set_rollback(True)
        return response

    def seconds(self, path, sent, repeat):
        gc.collect()
        start = time.process_time()
        for _ in range(repeat):
            self.call(path, sent)
        return (time.process_time() - start) / repeat

    def queries(self, path, sent):
        with CaptureQueriesContext(connection) as captured:
            self.call(path, sent)
        skipped = ("SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN")
        return sum(not each["sql"].startswith(skipped) for each in captured)

    def peak(self, path, sent):
        """Return the most new memory that Python allocates in one request, in MiB."""
        tracemalloc.start()
        before, _peak = tracemalloc.get_traced_memory()
        self.call(path, sent)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return (peak - before) / 2**20

    def compare(self, ajax_path, hand_path, sent, rounds):
        """Return the median seconds by hand and the median ratio of ajax.py to it."""
        once = self.seconds(hand_path, sent, 2)
        repeat = max(1, int(0.02 / once))
        pairs = []
        for number in range(rounds):
            paths = [(0, ajax_path), (1, hand_path)][:: -1 if number % 2 else 1]
            took = {side: self.seconds(path, sent, repeat) for side, path in paths}
            pairs.append((took[1], took[0] / took[1]))
        return [statistics.median(column) for column in zip(*pairs, strict=True)]


def bench_rows(bench, pk, category, rounds):
    for name, ajax_path, hand_path, sent in bench_operations(pk, category):
        seconds, ratio = bench.compare(ajax_path, hand_path, sent, rounds)
        both = (ajax_path, hand_path)
        queries = [bench.queries(each, sent) for each in both]
        peaks = [bench.peak(each, sent) for each in both]
        yield (
            f"| {name} | {seconds * 1e6:,.0f} µs | {ratio:.2f} | {queries[0]} / "
            f"{queries[1]} | {peaks[0]:.2f} / {peaks[1]:.2f} MiB |"
        )


def bench(rounds=21):
    """Print the comparison with hand-written views as one table."""
    runner = DiscoverRunner(verbosity=0)
    runner.setup_test_environment(debug=False)
    databases = runner.setup_databases()
    ArticleEndpoint.max_per_page = 10_000
    try:
        user, pk = bench_data(1000)
        category = Category.objects.earliest("pk").pk
        python, db = platform.python_version(), connection.vendor
        print(f"Python {python}, Django {django.get_version()}, {db}, CPU time\n")
        print("| operation | by hand | ajax.py / by hand | queries | peak memory |")
        print("|---|---|---|---|---|")
        for row in bench_rows(Bench(user), pk, category, rounds):
            print(row, flush=True)
        print("\nEach pair is: ajax.py / by hand.")
    finally:
        runner.teardown_databases(databases)
        runner.teardown_test_environment()


# --- Running --------------------------------------------------------------------------


def main(arguments):
    """Run the benchmark, or the tests named, or all; return the exit status."""
    if arguments == ["bench"]:
        return bench()
    names = [f"test_ajax.{name.removeprefix('test_ajax.')}" for name in arguments]
    shuffle = int(os.environ.get("AJAX_SHUFFLE", 0)) or False
    runner = DiscoverRunner(shuffle=shuffle)
    return bool(runner.run_tests(names or ["test_ajax"]))
