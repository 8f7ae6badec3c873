"""Let the JavaScript of a Django site's own pages call its functions and models.

    # blog/endpoints.py
    import ajax
    from .models import Post

    @ajax.login_required
    def whoami(request):
        return {"username": request.user.username}

    @ajax.register(Post)
    class PostEndpoint(ajax.ModelEndpoint):
        readonly_fields = ["author"]

    # urls.py
    path("ajax/", include("ajax"))

Everything is called by POST, below the mount:

    {app}/{name}.json                      a function of the app's endpoints.py, a form,
                                           or create a record of the model
    {app}/{model}/{operation}.json         list, create, a custom operation
    {app}/{model}/{pk}/{operation}.json    get, update, delete, a custom operation
    {app}/{model}/{pk}/{tags}/{command}.json   add, remove, set, clear, similar

The life of a request is the function `dispatch`: resolve the path to an endpoint, check
CSRF, let the endpoint authenticate the user, run it, and respond; whatever is raised on
the way becomes a JSON error in `_error_response`. What a model looks like in JSON, and
the queries that read it, come from one `_Plan` per model, worked out once.

Read down for definitions, up to follow a request.
"""

import base64
import contextlib
import contextvars
import copy
import datetime
import decimal
import difflib
import enum
import functools
import importlib.util
import inspect
import itertools
import json
import math
import pathlib
import re
import sys
import threading
import traceback
import uuid
from collections.abc import Iterable, Mapping
from importlib import import_module

from asgiref.sync import async_to_sync
from django import forms
from django.apps import AppConfig, apps
from django.conf import settings
from django.contrib.auth import get_permission_codename
from django.contrib.auth.decorators import login_not_required
from django.core import checks
from django.core import exceptions as core_exceptions
from django.core.exceptions import (
    NON_FIELD_ERRORS,
    BadRequest,
    EmptyResultSet,
    FieldDoesNotExist,
    FieldError,
    ImproperlyConfigured,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
    TooManyFieldsSent,
    TooManyFilesSent,
    ValidationError,
)
from django.core.files import File
from django.core.signals import got_request_exception
from django.db import (
    DEFAULT_DB_ALIAS,
    DatabaseError,
    DataError,
    IntegrityError,
    OperationalError,
    connections,
    models,
    router,
    transaction,
)
from django.db.models import Count, F, OuterRef, Q, Subquery
from django.db.models import signals as model_signals
from django.db.models.constants import LOOKUP_SEP
from django.db.models.expressions import RawSQL
from django.db.models.fields.files import FieldFile
from django.db.models.functions import Cast
from django.dispatch import Signal
from django.forms.utils import from_current_timezone
from django.http import Http404, HttpResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware
from django.shortcuts import resolve_url
from django.urls import path, re_path
from django.utils import timezone
from django.utils.datastructures import MultiValueDict
from django.utils.duration import duration_iso_string
from django.utils.functional import Promise, cached_property
from django.utils.html import escape
from django.utils.log import log_response
from django.utils.module_loading import import_string, module_has_submodule
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.csrf import csrf_exempt

__version__ = "1.0.0"

__all__ = [
    "AJAXError", "AjaxConfig", "AlreadyRegistered", "BaseAuthentication",
    "BaseEndpoint", "DefaultEncoder", "EnvelopedResponse", "ExcludeEncoder",
    "FormEndpoint", "HTMLEscapeEncoder", "IncludeEncoder", "ModelEndpoint",
    "NotRegistered", "ajax_created", "ajax_deleted", "ajax_updated",
    "allowed_methods", "app_name", "encoder", "endpoint", "json_response",
    "login_required", "register", "urlpatterns",
]  # fmt: skip

app_name = "ajax"


# --- Settings and limits --------------------------------------------------------------

#: The project's settings, all optional, read when used.
_DEFAULTS = {
    "AJAX_MAX_PER_PAGE": 100,
    "AJAX_AUTHENTICATION": f"{__name__}.BaseAuthentication",
}

_MAX_JSON_DEPTH = 64
_MAX_TAGS = 100
_MAX_MEMBERS = 1000
_MAX_FILTER_VALUES = 100
_MAX_FILTER_LENGTH = 1000
_MAX_SEARCH_WORDS = 10
_MAX_SORT_KEYS = 10
_MAX_EXPANSION = 5
_MAX_UNKNOWN_KEYS = 20
#: SQLite joins at most 64 tables; what is beyond this many is fetched beside.
_MAX_JOINS = 40
#: Beyond Number.MAX_SAFE_INTEGER (ECMA-262) JavaScript rounds.
_MAX_SAFE_INTEGER = 2**53 - 1


def _setting(name):
    return getattr(settings, name, _DEFAULTS[name])


# --- Exceptions -----------------------------------------------------------------------


class AlreadyRegistered(Exception):
    """The model or form, or its path, is registered already."""


class NotRegistered(Exception):
    """The model or form is not registered."""


class AJAXError(Exception):
    """An error whose code and message are the answer; raise it, or return it.

    `code` is the HTTP status, 400 to 599; `message` is shown to the user; every other
    keyword is added to the answer at top level, beside `success` and `data`.
    """

    def __init__(self, code, message, **extra):
        code = int(code)
        if not 400 <= code <= 599:
            raise ValueError(f"AJAXError wants a code from 400 to 599, not {code}.")
        super().__init__(code, message)
        self.code = code
        self.msg = message
        self.extra = extra

    def __str__(self):
        return str(self.msg)

    def get_response(self):
        """Return the error as a JSON HttpResponse."""
        answer = {
            "success": False,
            "data": {"code": self.code, "message": str(self.msg)},
        }
        answer.update(_besides(self.extra))
        response = _json_response(_dumps(answer), self.code)
        if self.code == 405:
            response["Allow"] = "POST"
        return response


#: What is said where an exception says nothing that clients should read.
_MESSAGES = {
    400: gettext_lazy("Bad request."),
    403: gettext_lazy("Access to endpoint is forbidden"),
    404: gettext_lazy("Not found."),
    409: gettext_lazy("The record conflicts with another one, is in use, or is gone."),
    413: gettext_lazy("The request is too large."),
}


def _forbidden():
    return AJAXError(403, _MESSAGES[403])


def _invalid(errors):
    return AJAXError(400, _("Could not save model."), errors=errors)


# --- Signals --------------------------------------------------------------------------

#: Sent inside the transaction, after its last write, with `instance` and `request`;
#: `ajax_deleted` also with `payload`, what the client is answered.
ajax_created = Signal()
ajax_updated = Signal()
ajax_deleted = Signal()


# --- Values as JSON -------------------------------------------------------------------


class EnvelopedResponse:
    """Data with `metadata`, a dict of what goes beside it in the answer."""

    def __init__(self, data, metadata):
        self.data = data
        self.metadata = metadata


class _Page(EnvelopedResponse):
    """A list of records, kept as JSON text until somebody looks at `data`."""

    def __init__(self, texts, metadata):
        self.texts = texts
        self.metadata = metadata

    @cached_property
    def data(self):
        return [json.loads(text) for text in self.texts]


def _iso(value):
    text = value.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else text


def _file_url(file):
    """Return the URL of a FieldFile, None without a file or without URLs."""
    try:
        return file.url if file else None
    except NotImplementedError:
        return None


def _integer(value):
    is_safe = -_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER
    return int(value) if is_safe else str(int(value))


def _base64(value):
    return base64.b64encode(value).decode("ascii")


#: How a value is given in JSON, by its class or the nearest base that stands here.
_CONVERSIONS = {
    type(None): lambda value: None,
    bool: bool,
    str: str.__str__,
    int: _integer,
    float: lambda value: float(value) if math.isfinite(value) else None,
    enum.Enum: lambda value: _plain(value.value),
    datetime.datetime: _iso,
    datetime.date: lambda value: value.isoformat(),
    datetime.time: lambda value: value.isoformat(),
    datetime.timedelta: duration_iso_string,
    decimal.Decimal: lambda value: str(value) if value.is_finite() else None,
    uuid.UUID: str,
    Promise: str,
    bytes: _base64,
    bytearray: _base64,
    memoryview: _base64,
    FieldFile: _file_url,
    File: lambda value: value.name,
}


def _plain(value, request=None):
    """Return what an endpoint gave as dicts, lists and scalars that JSON knows.

    With a request, records are as its user may see them. Raise TypeError for what
    cannot be encoded.
    """
    for kind in type(value).__mro__:
        if kind in _CONVERSIONS:
            return _CONVERSIONS[kind](value)
    if isinstance(value, models.Model):
        return _encode_records([value], request=request)[0]
    if isinstance(value, Mapping):
        return {_plain_key(k): _plain(item, request) for k, item in value.items()}
    if isinstance(value, Iterable):
        items = list(value)
        if all(isinstance(item, models.Model) for item in items):
            return _encode_records(items, request=request)
        return [_plain(item, request) for item in items]
    if hasattr(value, "lower_inc"):
        return str(value)  # PostgreSQL's ranges, from whichever driver.
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON.")


def _plain_key(key):
    plain = _plain(key)
    return plain if isinstance(plain, (str, int, float, type(None))) else str(plain)


def _escaped(value):
    """Return plain data with every text in it, keys too, escaped for HTML."""
    if isinstance(value, str):
        return str(escape(value))
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value


def _encoder(item_separator):
    # ASCII, so that no lone surrogate can break the answer.
    return json.JSONEncoder(
        separators=(item_separator, ":"), allow_nan=False, default=_plain
    )


#: Plain data as JSON text.
_dumps = _encoder(",").encode
#: The same, as pieces: no control character stands in JSON text.
_dumps_apart = _encoder("\0").encode


def _texts(values):
    """Return each of some plain values as JSON text."""
    texts = _dumps_apart(values)[1:-1].split("\0")
    if len(texts) != len(values):
        # Some are lists or dicts of their own.
        texts = [_dumps(value) for value in values]
    return texts


def _json_response(text, status=200):
    return HttpResponse(text, content_type="application/json", status=status)


def _besides(extra):
    """Return what goes beside `success` and `data` in an answer, as plain data."""
    return {k: v for k, v in _plain(extra).items() if k not in ("success", "data")}


def _success_response(result, request):
    """Return an endpoint's result as an HttpResponse; raise a returned AJAXError."""
    if isinstance(result, HttpResponseBase):
        return result
    if isinstance(result, AJAXError):
        raise result
    before, after = '{"success":true,"data":', "}"
    if isinstance(result, EnvelopedResponse):
        if metadata := _besides(result.metadata):
            after = f",{_dumps(metadata)[1:]}"
        if isinstance(result, _Page) and "data" not in vars(result):
            return _json_response(f"{before}[{','.join(result.texts)}]{after}")
        result = result.data
    return _json_response(f"{before}{_dumps(_plain(result, request))}{after}")


# --- How a model is read and written: the plan ----------------------------------------


def _is_user_model(model):
    # Imported on use: while apps load, not even an abstract model can be made.
    from django.contrib.auth.base_user import AbstractBaseUser

    return issubclass(model, AbstractBaseUser)


def _is_tags_manager(field):
    if not apps.is_installed("taggit"):
        return False
    from taggit.managers import TaggableManager

    return isinstance(field, TaggableManager)


def _is_parent_link(field):
    return field.is_relation and field.remote_field.parent_link


def _is_own_key(field):
    """Whether the field only repeats the record's pk: itself, or a parent's."""
    return _is_parent_link(field) if field.is_relation else field.primary_key


_TEXT_FIELDS = (models.CharField, models.TextField)


def _root_key(model):
    """Return the field that a record's pk really is: a parent's, a related model's."""
    field = model._meta.pk
    while field.is_relation:
        field = field.target_field
    return field


def _model_fields(model):
    """Return by name what a model has to show besides its pk, in order."""
    opts = model._meta
    named = [field for field in opts.concrete_fields if not _is_own_key(field)]
    return {field.name: field for field in (*named, *opts.many_to_many)}


def _pk_names(model):
    return {"pk", *(f.name for f in model._meta.concrete_fields if _is_own_key(f))}


def _within(model, endpoint_class):
    """Return the names that an endpoint class lets be seen, in order."""
    every = _model_fields(model)
    fields = endpoint_class.fields
    if fields is None or fields == "__all__":
        names = [name for name in every if name != "password"]
    else:
        extras = [n for n in fields if n not in every and n not in _pk_names(model)]
        names = [name for name in every if name in fields] + extras
    hidden = {*endpoint_class.exclude}
    if endpoint_class is ModelEndpoint:
        # Nobody speaks for the model; what is said of its parents holds for it.
        for parent in model._meta.all_parents:
            said = _shown(parent, endpoint.find(parent), encoder.find(parent))
            hidden |= _model_fields(parent).keys() - {*said}
    return [name for name in names if name not in hidden]


def _shown(model, endpoint_class, chosen):
    """Return the names that are shown of a model: the one rule for reading and writing.

    `chosen` is the encoder that speaks for the model, or None.
    """
    names = _within(model, endpoint_class)
    if endpoint_class.fields is None and _is_user_model(model):
        if not isinstance(chosen, (IncludeEncoder, ExcludeEncoder)):
            names = [name for name in names if name == model.USERNAME_FIELD]
    return chosen.select(names) if chosen else names


def _levels(expand):
    """Return an `expand` attribute as a number of levels, or a tree of names."""
    if isinstance(expand, int):
        return _MAX_EXPANSION if expand is True else int(expand)
    tree = {}
    for name in expand:
        branch = tree
        for part in name.split(LOOKUP_SEP):
            branch = branch.setdefault(part, {})
    return tree


def _overrides(endpoint_class, hook):
    return getattr(endpoint_class, hook) is not getattr(ModelEndpoint, hook)


def _is_narrowed(model, endpoint_class):
    """Whether the project's code decides which records of a model there are."""
    manager, default = type(model._default_manager), models.Manager
    return (
        _overrides(endpoint_class, "get_queryset")
        or manager.get_queryset is not default.get_queryset
        or manager.all is not default.all
    )


def _needs_instances(model):
    """Whether making instances of a model can be noticed by anybody's code."""
    fields = model._meta.concrete_fields
    descriptors = (type(inspect.getattr_static(model, f.attname)) for f in fields)
    return (
        model_signals.pre_init.has_listeners(model)
        or model_signals.post_init.has_listeners(model)
        or model.__init__ is not models.Model.__init__
        or model.from_db.__func__ is not models.Model.from_db.__func__
        or not all(each.__module__.startswith("django.") for each in descriptors)
    )


class _Batch:
    """The records of one model that are encoded together.

    `columns` are the values of the plan's lookups; `converters` by position are what
    makes of them what their fields have; `records` are the instances where somebody's
    code wants them, else None; `found` is what was fetched beside.
    """

    def __init__(self, columns, using, endpoint=None, converters=None, records=None):
        self.columns = columns
        self.using = using
        self.endpoint = endpoint
        self.converters = converters or {}
        self.records = records
        self.found = {}

    def column(self, position):
        """Return the values at a position, as their field has them."""
        if position in self.converters:
            convert = self.converters.pop(position)
            self.columns[position] = convert(self.columns[position])
        return self.columns[position]

    def rows(self):
        return zip(*map(self.column, range(len(self.columns))), strict=True)

    @property
    def pks(self):
        return self.column(0) if self.columns else []


#: What a statement is given each time stands in its query as this.
_GIVEN = RawSQL("%s", [None])


class _Statement:
    """A values_list() whose SQL is made once for each database, and kept.

    Making it is half of the time of reading one record, and Django converts every value
    of every row: here columns are converted at once, and of a related record that many
    rows share, once. That wants the query's compiler, which is private API, used only
    here.
    """

    def __init__(self, queryset, *given):
        """Keep a query; `given` are the fields it compares with _GIVEN."""
        self.queryset = queryset
        self.given = given
        self.made = {}

    def load(self, using, endpoint=None, values=(), limits=None):
        """Run it with the values given, between limits or whole; return a _Batch."""
        connection = connections[using]
        if using not in self.made:
            compiler = self.queryset.query.get_compiler(using)
            try:
                sql, parameters = compiler.as_sql()
            except EmptyResultSet:
                return _Batch([], using, endpoint)
            selected = [each[0] for each in compiler.select]
            converted = {n: selected[n] for n in compiler.get_converters(selected)}
            self.made[using] = sql, parameters, converted
        sql, parameters, converted = self.made[using]
        if values:
            pairs = zip(self.given, values, strict=True)
            parameters = [f.get_db_prep_value(v, connection) for f, v in pairs]
        if limits:
            sql = f"{sql} {connection.ops.limit_offset_sql(*limits)}"
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            columns = list(zip(*cursor.fetchall(), strict=True))
        converters = {n: _converter(each, connection) for n, each in converted.items()}
        return _Batch(columns, using, endpoint, converters)


def _converter(expression, connection):
    """Return what makes of a column's values what its field has."""
    of_database = connection.ops.get_db_converters(expression)
    steps = of_database + expression.get_db_converters(connection)

    def convert(values):
        for step in steps:
            values = [step(value, expression, connection) for value in values]
        return values

    return convert


def _in_order(queryset, order):
    """Return a queryset in an order whose ties are broken, so that pages never overlap:
    the one given, else its own, else the model's."""
    opts = queryset.model._meta
    own = queryset.query.order_by or opts.ordering
    order = [*(order or own)]
    keys = {"pk", "-pk", opts.pk.name, f"-{opts.pk.name}"}
    if not any(isinstance(key, str) and key in keys for key in order):
        order.append("pk")
    return queryset if order == [*own] else queryset.order_by(*order)


class _Column:
    """A key whose value stands in a column."""

    joins = ()

    def __init__(self, plan, name, field, lookup):
        self.name = name
        self.field = field
        self.position = len(plan.lookups)
        plan.lookups.append(lookup)
        is_plain = isinstance(field, models.JSONField)
        self.write = plan.plain_texts if is_plain else plan.texts

    def texts(self, batch):
        values = batch.column(self.position)
        if isinstance(self.field, models.FileField):
            values = [self.file(value) for value in values]
        return self.write(values)

    def file(self, value):
        is_file = isinstance(value, FieldFile)
        return value if is_file else self.field.attr_class(None, self.field, value)


class _Key(_Column):
    """A foreign key given as the pk of what it refers to."""

    def __init__(self, plan, field):
        super().__init__(plan, field.name, field, field.attname)
        self.target = field.target_field.name
        related = field.remote_field.model._base_manager
        is_pk = field.target_field.primary_key
        self.rows = None if is_pk else related.values_list(self.target, "pk")

    def pks(self, batch):
        """Return for each record the pk of what it refers to."""
        keys = batch.column(self.position)
        if self.rows is None:
            return keys
        if self not in batch.found:
            wanted = {f"{self.target}__in": {*keys} - {None}}
            batch.found[self] = dict(self.rows.using(batch.using).filter(**wanted))
        return [batch.found[self].get(key) for key in keys]

    def texts(self, batch):
        return self.write(self.pks(batch))


class _Joined:
    """A foreign key shown as the whole record, read by a join."""

    def __init__(self, plan, field, related):
        self.name = field.name
        self.field = field
        self.plan = related
        inner = (f"{field.name}{LOOKUP_SEP}{join}" for join in related.joins)
        self.joins = (field.name, *inner)

    def texts(self, batch):
        """Encode each distinct record once."""
        if batch.records is not None:
            return self.of_instances(batch)
        start, stop = self.start, self.start + len(self.plan.lookups)
        keys, columns = batch.columns[start], batch.columns[start:stop]
        rows = dict(zip(keys, zip(*columns, strict=True), strict=True))
        rows.pop(None, None)
        converters = {n - start: c for n, c in batch.converters.items() if n >= start}
        columns = list(zip(*rows.values(), strict=True))
        inner = _Batch(columns, batch.using, batch.endpoint, converters)
        found = dict(zip(rows, self.plan.encode(inner), strict=True))
        return [found.get(key, "null") for key in keys]

    def of_instances(self, batch):
        related = [self.field.get_cached_value(each, None) for each in batch.records]
        keys = [None if each is None else each.pk or id(each) for each in related]
        distinct = dict(zip(keys, related, strict=True))
        distinct.pop(None, None)
        asked = self.plan.endpoint(batch.endpoint.request)
        inner = self.plan.batch([*distinct.values()], batch.using, asked)
        # What may not be seen is given as its pk.
        found = dict(zip(distinct, self.plan.texts(inner.pks), strict=True))
        inner = self.plan.allowed(inner)
        for record, text in zip(inner.records, self.plan.encode(inner), strict=True):
            found[record.pk or id(record)] = text
        return [found.get(key, "null") for key in keys]


class _Fetched:
    """A foreign key shown as the whole record, read by a query of its own.

    So are models whose endpoint or manager says which records there are, keys that no
    database constraint guards (an inner join would lose the row), and what is beyond
    the joins a database can do. Keys to one model that are expanded alike share the
    query: they are each other's `peers`.
    """

    joins = ()

    def __init__(self, plan, field, make_plan, peers):
        self.name = field.name
        self.key = _Key(plan, field)
        self.make_plan = make_plan
        self.peers = peers
        peers.append(self)

    @cached_property
    def plan(self):
        return self.make_plan()

    def texts(self, batch):
        first = self.peers[0]
        if first not in batch.found:
            keys = {pk for each in self.peers for pk in each.key.pks(batch)}
            batch.found[first] = first.plan.fetch(keys - {None}, batch)
        found, pks = batch.found[first], self.key.pks(batch)
        if not (first.plan.is_narrowed or first.plan.asks):
            return [found.get(pk, "null") for pk in pks]
        # What is outside may exist: its pk is all that is shown of it.
        texts = self.key.texts(batch)
        return [found.get(pk, text) for pk, text in zip(pks, texts, strict=True)]


class _Members:
    """A many-to-many relation, given as a list of pks."""

    joins = ()

    def __init__(self, plan, field):
        self.name = field.name
        self.write = plan.texts
        self.clean = plan.model._meta.pk.to_python
        self.source = f"{field.m2m_field_name()}__pk"
        target = f"{field.m2m_reverse_field_name()}__pk"
        through = field.remote_field.through._base_manager
        self.rows = through.values_list(self.source, target)

    def texts(self, batch):
        pks = [self.clean(pk) for pk in batch.pks]
        wanted = {f"{self.source}__in": {*pks} - {None}}
        members = {pk: {} for pk in pks}
        for pk, member in sorted(self.rows.using(batch.using).filter(**wanted)):
            members[pk][member] = None
        return self.write([[*members[pk]] for pk in pks])


class _Tags:
    """The tags of a TaggableManager, as a list of {"pk", "name", "slug"}.

    Read from the through table: taggit's own prefetch builds a queryset for every row.
    """

    joins = ()
    template = '{"pk":%s,"name":%s,"slug":%s}'

    def __init__(self, plan, field):
        from taggit.models import CommonGenericTaggedItemBase

        self.name = field.name
        self.model = plan.model
        self.write = plan.texts
        self.through = field.through
        self.is_generic = issubclass(self.through, CommonGenericTaggedItemBase)
        self.key = "object_id" if self.is_generic else "content_object_id"
        columns = ("pk", self.key, "tag_id", "tag__name", "tag__slug")
        signs = [("-" * n.startswith("-"), n.lstrip("-")) for n in field.ordering or ()]
        self.order = [f"{sign}tag{LOOKUP_SEP}{name}" for sign, name in signs]
        rows = self.through._base_manager.values_list(*columns)
        self.rows = rows.order_by(*self.order)
        # Text in a generic key, as taggit documents it, is not compared with a number.
        root, key = _root_key(plan.model), self.through._meta.get_field(self.key)
        self.clean = key.to_python
        names = ("content_type",) * self.is_generic + (self.key,)
        given = self.rows.filter(**dict.fromkeys(names, _GIVEN))
        fields = map(self.through._meta.get_field, names)
        self.of_one = _Statement(given, *fields)
        is_alike = not isinstance(key, _TEXT_FIELDS) or isinstance(root, _TEXT_FIELDS)
        self.record_pk = F(self.key) if is_alike else Cast(self.key, root)
        self.outer_pk = OuterRef("pk") if is_alike else Cast(OuterRef("pk"), key)

    def about(self):
        """Return the conditions under which a row of the through table is about the
        model at all."""
        if not self.is_generic:
            return {}
        from django.contrib.contenttypes.models import ContentType

        return {"content_type": ContentType.objects.get_for_model(self.model)}

    def rows_of(self, pks, using):
        """Return the rows of the through table for some records, in order."""
        about = self.about()
        if len(pks) == 1:
            statement = self.of_one
            values = [*(kind.pk for kind in about.values()), *pks]
        else:
            keys = {f"{self.key}__in": pks}
            statement, values = _Statement(self.rows.filter(**about, **keys)), ()
        rows = statement.load(using, values=values).rows()
        # Sorted here: asked to sort by its pk, SQLite reads all of the table.
        return [*rows] if self.order else sorted(rows)

    def texts(self, batch):
        return self.of(batch.pks, batch.using)

    def of(self, pks, using):
        """Return the tags of each record as JSON text."""
        pks = [self.clean(pk) for pk in pks]
        rows = self.rows_of({*pks} - {None}, using)
        known = {tag: (tag, name, slug) for _through, _pk, tag, name, slug in rows}
        columns = [self.write(values) for values in zip(*known.values(), strict=True)]
        written = map(self.template.__mod__, zip(*columns, strict=True))
        texts = dict(zip(known, written, strict=True))
        tags = {pk: [] for pk in pks}
        for _through, pk, tag, _name, _slug in rows:
            tags[pk].append(texts[tag])
        return [f"[{','.join(tags[pk])}]" for pk in pks]


def _adds(endpoint_class, name):
    """Whether a name is an endpoint class's own: `user` may be the model's property."""
    return hasattr(endpoint_class, name) and not hasattr(ModelEndpoint, name)


class _Extra:
    """A property or method of the endpoint or the model that `fields` names."""

    joins = ()

    def __init__(self, plan, name):
        self.name = name
        self.write = plan.texts
        self.of_endpoint = _adds(plan.endpoint_class, name)

    def texts(self, batch):
        return self.write([self.value(each, batch.endpoint) for each in batch.records])

    def value(self, record, endpoint):
        value = getattr(endpoint if self.of_endpoint else record, self.name)
        if callable(value):
            value = value(record) if self.of_endpoint else value()
        return value


#: The classes of the values that are plain already.
_PLAIN = {str, bool, type(None)}


class _Plan:
    """How one model is read and encoded at one place of an answer.

    `parts` each give the JSON text of one key for all records of a batch; `lookups` are
    the columns they want, for `values_list()`; `joins` are the relations to select.
    Rows are read as tuples unless somebody's code needs instances.
    """

    def __init__(
        self, model, endpoint_class=None, has_user=False, html_escape=False,
        chosen=None, levels=None, ancestors=(), budget=None,
    ):  # fmt: skip
        autodiscover()
        self.model = model
        self.endpoint_class = endpoint_class = endpoint_class or endpoint.find(model)
        self.encoder = chosen = chosen or encoder.find(model)
        self.has_user = has_user
        self.html_escape = html_escape or getattr(chosen, "html_escape", False)
        self.levels = _levels(endpoint_class.expand) if levels is None else levels
        self.ancestors = (*ancestors, model._meta.concrete_model)
        self.budget = budget or [_MAX_JOINS]
        self.asks = has_user and _overrides(endpoint_class, "can_get")
        self.is_narrowed = _is_narrowed(model, endpoint_class)
        self.is_custom = chosen is not None and chosen.is_custom
        self.lookups, self.peers = [], {}
        self.parts = [_Column(self, "pk", model._meta.pk, "pk")]
        names = _shown(model, endpoint_class, chosen)
        fields = _model_fields(model)
        self.parts += [self._part(name, fields.get(name)) for name in names]
        self.names = [part.name for part in self.parts]
        pairs = ",".join(f"{_dumps(name)}:%s" for name in self.names)
        self.template = f"{{{pairs}}}"
        self.joins = [join for part in self.parts for join in part.joins]
        self.joined = [part for part in self.parts if isinstance(part, _Joined)]
        self.own_lookups = [*self.lookups]
        for part in self.joined:
            part.start = len(self.lookups)
            self.lookups += [f"{part.name}{LOOKUP_SEP}{n}" for n in part.plan.lookups]
        self.needs_records = (
            self.is_custom
            or self.asks
            or any(isinstance(part, _Extra) for part in self.parts)
            or any(part.plan.needs_records for part in self.joined)
            or _needs_instances(model)
        )

    def _part(self, name, field):
        if field is None:
            return _Extra(self, name)
        if isinstance(field, models.ForeignKey):
            return self._relation(field)
        if _is_tags_manager(field):
            return _Tags(self, field)
        if field.many_to_many:
            return _Members(self, field)
        return _Column(self, name, field, field.attname)

    def _relation(self, field):
        """Return the part for a foreign key: its pk, joined, or fetched beside."""
        related = field.remote_field.model
        endpoint_class = endpoint.find(related)
        hooks = ("get_queryset", "can_get")
        is_private = any(_overrides(endpoint_class, hook) for hook in hooks)
        levels = self._levels_below(field, endpoint_class)
        if levels is None or is_private and not self.has_user:
            return _Key(self, field)
        make_plan = functools.partial(
            _Plan, related, endpoint_class, self.has_user, self.html_escape,
            levels=levels, ancestors=self.ancestors,
        )  # fmt: skip
        tables = 1 + len(related._meta.all_parents)
        is_joined = field.db_constraint and self.budget[0] >= tables
        if is_joined and not _is_narrowed(related, endpoint_class):
            self.budget[0] -= tables
            return _Joined(self, field, make_plan(budget=self.budget))
        peers = self.peers.setdefault((related, repr(levels)), [])
        return _Fetched(self, field, make_plan, peers)

    def _levels_below(self, field, endpoint_class):
        """Return the levels for what a foreign key refers to, None if it stays a pk."""
        if isinstance(self.levels, dict):
            return self.levels.get(field.name)
        related = field.remote_field.model._meta.concrete_model
        if self.levels < 1 or related in self.ancestors:
            return None
        levels = _levels(endpoint_class.expand)
        return levels if isinstance(levels, dict) else min(self.levels - 1, levels)

    # Reading

    @cached_property
    def _rows(self):
        """The query of all rows, made once; None if somebody's code has a say in it."""
        if self.is_narrowed or self.needs_records:
            return None
        return self.model._default_manager.values_list(*self.lookups)

    def queryset(self, endpoint):
        """Return the query of all that the endpoint shows, ready to narrow and load."""
        if self._rows is not None:
            return self._rows
        queryset = endpoint.get_queryset(endpoint.request)
        if not self.needs_records:
            return queryset.values_list(*self.lookups)
        queryset = queryset.defer(None)
        return queryset.select_related(*self.joins) if self.joins else queryset

    def load(self, queryset, endpoint):
        """Return the batch of a query that `queryset` began."""
        if self.needs_records:
            return self.batch([*queryset], queryset.db, endpoint)
        return _Statement(queryset).load(queryset.db, endpoint)

    def load_one(self, pk, endpoint, using=None):
        """Return the batch of one record, empty if there is none."""
        if self._rows is not None:
            return self._by_pk.load(using or self._rows.db, endpoint, [pk])
        found = self.queryset(endpoint).filter(pk=pk)[:1]
        return self.load(found.using(using) if using else found, endpoint)

    def load_page(self, endpoint, conditions, order, start, size):
        """Return the batch of a page of what the conditions hold, and their total."""
        found = self.queryset(endpoint)
        is_whole = found is self._rows and not conditions
        if is_whole:
            total = self._count.load(found.db).column(0)[0]
        else:
            found = found.filter(*conditions)
            total = found.count()
        limits = (start, start + size)
        if start >= total:
            return _Batch([], found.db, endpoint, records=[]), total
        if is_whole and order == self.endpoint_class.ordering:
            return self._ordered.load(found.db, endpoint, limits=limits), total
        return self.load(_in_order(found, order)[slice(*limits)], endpoint), total

    @cached_property
    def _by_pk(self):
        rows = self._rows.order_by().filter(pk=_GIVEN)
        return _Statement(rows, self.model._meta.pk)

    def lock_one(self, pk, using):
        """Return one record as an instance, locked until the transaction ends; None if
        there is none. Only for a model whose query nobody has a say in."""
        names, statement = self._locking
        rows = statement.load(using, values=[pk]).rows()
        return next((self.model.from_db(using, names, row) for row in rows), None)

    @cached_property
    def _locking(self):
        names = [field.attname for field in self.model._meta.concrete_fields]
        rows = self.model._default_manager.order_by().select_for_update()
        found = rows.filter(pk=_GIVEN).values_list(*names)
        return names, _Statement(found, self.model._meta.pk)

    @cached_property
    def _ordered(self):
        return _Statement(_in_order(self._rows, self.endpoint_class.ordering))

    @cached_property
    def _count(self):
        counted = models.Func(template="COUNT(*)", output_field=models.IntegerField())
        every = self.model._default_manager.order_by()
        return _Statement(every.values_list(counted))

    def allowed(self, batch):
        """Return a batch without the records that the user may not get."""
        if not self.asks:
            return batch
        may_get = functools.partial(batch.endpoint.can_get, batch.endpoint.user)
        records = [*filter(may_get, batch.records)]
        return self.batch(records, batch.using, batch.endpoint)

    def endpoint(self, request):
        """Return the endpoint that speaks for the model within a request."""
        return self.endpoint_class.for_model(self.model, request)

    def batch(self, records, using, endpoint):
        """Return the batch of instances that are there already."""
        names = self.own_lookups if records else ()
        columns = [[_value(record, name) for record in records] for name in names]
        return _Batch(columns, using, endpoint, records=records)

    def batch_of(self, records, request=None):
        """Return the batch of somebody's instances, their relations read at once."""
        for record, part in itertools.product(records, self.joined):
            if not part.field.is_cached(record):
                # An int for "5", by which the relation is found.
                key = part.field.to_python(getattr(record, part.field.attname))
                setattr(record, part.field.attname, key)
        models.prefetch_related_objects(records, *self.joins)
        using = router.db_for_read(self.model, instance=records[0])
        return self.batch(records, using, self.endpoint(request))

    def fetch(self, pks, batch):
        """Return by pk what is shown of the records that another model's refer to."""
        endpoint, other = self.endpoint(batch.endpoint.request), batch.endpoint.model
        queryset = self.queryset(endpoint).filter(pk__in=pks)
        is_near = router.db_for_read(self.model) == router.db_for_read(other)
        if is_near and not self.is_narrowed:
            queryset = queryset.using(batch.using)
        found = self.allowed(self.load(queryset, endpoint))
        return dict(zip(found.pks, self.encode(found), strict=True))

    # Encoding

    def texts(self, values):
        """Return each of some values as JSON text."""
        kinds = {*map(type, values)}
        if not kinds <= _PLAIN:
            convert = {kind: _CONVERSIONS.get(kind, _plain) for kind in kinds}
            values = [convert[type(value)](value) for value in values]
        return self.plain_texts(values)

    def plain_texts(self, values):
        return _texts(_escaped([*values]) if self.html_escape else values)

    def encode(self, batch):
        """Return the JSON text of each record of a batch."""
        if not batch.pks:
            return []
        texts = self.own_texts(batch)
        return self._encode_custom(batch, texts) if self.is_custom else texts

    def own_texts(self, batch):
        """Return the JSON text of each record, without its encoder."""
        texts = [part.texts(batch) for part in self.parts]
        return list(map(self.template.__mod__, zip(*texts, strict=True)))

    def _encode_custom(self, batch, texts):
        """Let the model's encoder speak, within what its endpoint lets be seen."""
        options = {"html_escape": True} if self.html_escape else {}
        token = _encoding.set(dict(zip(map(id, batch.records), texts, strict=True)))
        try:
            given = [_plain(self.encoder(each, **options)) for each in batch.records]
        finally:
            _encoding.reset(token)
        return _texts([_without(each, self._hidden) for each in given])

    @cached_property
    def _hidden(self):
        """The keys of the model that its endpoint does not let be seen."""
        seen = _within(self.model, self.endpoint_class)
        unseen = [f for n, f in _model_fields(self.model).items() if n not in seen]
        return {
            name for f in unseen for name in (f.name, getattr(f, "attname", f.name))
        }


#: The plan of a model at the top of an answer, kept until something is registered.
_kept_plan = functools.cache(_Plan)


def _value(record, name):
    """Return a field's value, None while the database has yet to fill it in."""
    value = getattr(record, name, None)
    return None if hasattr(value, "resolve_expression") else value


def _without(data, keys):
    if not isinstance(data, dict):
        return data
    return {key: value for key, value in data.items() if key not in keys}


#: The JSON text of the instances that a custom encoder is speaking for, by their id.
_encoding = contextvars.ContextVar("encoding")


def _encode_records(records, chosen=None, html_escape=False, request=None):
    """Return instances as dicts, in their order, as the request's user may see them."""
    encoded = {}
    # Not type(): request.user is a lazy object.
    for model in {record._meta.model: None for record in records}:
        same = [record for record in records if record._meta.model is model]
        make = _Plan if chosen else _kept_plan
        plan = make(model, None, bool(request), html_escape, chosen)
        texts = plan.encode(plan.batch_of(same, request))
        encoded.update(zip(map(id, same), map(json.loads, texts), strict=True))
    return [encoded[id(record)] for record in records]


# --- Encoders -------------------------------------------------------------------------


class DefaultEncoder:
    """How a model looks in JSON; extend `to_dict` to say it in code."""

    #: Whether every text is escaped for HTML.
    html_escape = False

    def to_dict(self, record, html_escape=False):
        """Return what is shown of a record as a dict of plain data."""
        texts = _encoding.get({})
        if id(record) not in texts:
            model = record._meta.model
            plan = _Plan(model, html_escape=html_escape, chosen=self)
            return json.loads(plan.own_texts(plan.batch_of([record]))[0])
        return json.loads(texts[id(record)])

    def __call__(self, record, html_escape=False):
        return self.to_dict(record, **({"html_escape": True} if html_escape else {}))

    @property
    def is_custom(self):
        """Whether code of its own says what is shown."""
        own, default = type(self), DefaultEncoder
        return (own.to_dict, own.__call__) != (default.to_dict, default.__call__)

    def select(self, names):
        """Return which of the names that the endpoint lets be seen are shown."""
        return names


class HTMLEscapeEncoder(DefaultEncoder):
    """Escapes every text for HTML."""

    html_escape = True


class IncludeEncoder(DefaultEncoder):
    """Shows the fields it lists, and the pk."""

    def __init__(self, include):
        self.include = include

    def select(self, names):
        return [name for name in names if name in self.include]


class ExcludeEncoder(DefaultEncoder):
    """Shows all fields but those it lists."""

    def __init__(self, exclude):
        self.exclude = exclude

    def select(self, names):
        return [name for name in names if name not in self.exclude]


class _FunctionEncoder(DefaultEncoder):
    """A plain function in the place of an encoder."""

    def __init__(self, function):
        self.function = function

    def __call__(self, record, html_escape=False):
        if _accepts(self.function, "html_escape"):
            return self.function(record, html_escape=html_escape)
        data = self.function(record)
        return _escaped(_plain(data)) if html_escape else data


def _as_encoder(encoder):
    """Return an encoder, the class of one, or a function of the record as encoder."""
    if isinstance(encoder, type):
        return encoder()
    return encoder if isinstance(encoder, DefaultEncoder) else _FunctionEncoder(encoder)


class _Registry:
    """What is registered, by model."""

    def __init__(self):
        self._registry = {}

    def unregister(self, model):
        """Take out what is registered for it; raise NotRegistered if nothing is."""
        if model not in self._registry:
            raise NotRegistered(f"{_label(model)} is not registered.")
        del self._registry[model]
        _kept_plan.cache_clear()

    def is_registered(self, model):
        """Return whether anything is registered for it."""
        return model in self._registry

    def find(self, model):
        """Return what is registered for a model, or what it is a proxy of, or None."""
        for base in model.__mro__:
            meta = getattr(base, "_meta", None)
            if meta and meta.concrete_model is model._meta.concrete_model:
                if base in self._registry:
                    return self._registry[base]
        return None


class Encoders(_Registry):
    """The registry of encoders: what each model looks like, wherever it appears."""

    def register(self, model, encoder):
        """Let an encoder (or its class, or a function of the record) speak for a model.

        Raise AlreadyRegistered if one does.
        """
        if model in self._registry:
            raise AlreadyRegistered(f"{model._meta.label} has an encoder already.")
        self._registry[model] = _as_encoder(encoder)
        _kept_plan.cache_clear()

    def encode(self, record, encoder=None, html_escape=False):
        """Return a record as a dict, a QuerySet or an iterable of records as a list.

        `encoder` speaks instead of the registered one. There is no user here: models
        whose endpoint overrides `can_get` or `get_queryset` stay pks in what is
        expanded.
        """
        encoder = encoder and _as_encoder(encoder)
        if isinstance(record, models.Model):
            return _encode_records([record], encoder, html_escape)[0]
        if isinstance(record, Mapping | str) or not isinstance(record, Iterable):
            return _escaped(_plain(record)) if html_escape else _plain(record)
        items = list(record)
        if all(isinstance(item, models.Model) for item in items):
            return _encode_records(items, encoder, html_escape)
        return [self.encode(item, encoder, html_escape) for item in items]


encoder = Encoders()


# --- Reading input --------------------------------------------------------------------

_JSON_TYPE = "application/json"
_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", _JSON_TYPE)

#: NUL, which PostgreSQL refuses, and lone surrogates, which no database stores.
_BAD_TEXT = re.compile("[\0\ud800-\udfff]")


def _check_storable(value, texts=True):
    """Raise ValueError for a value that is nested too deeply, or that no database
    stores; its `texts` are looked at unless nothing can be wrong with them."""
    level = [value]
    for _depth in range(_MAX_JSON_DEPTH + 1):
        # All of one depth at once, so that few steps are Python's.
        kinds = {*map(type, level)}
        if texts and _BAD_TEXT.search("".join(_of_kind(str, level))):
            raise ValueError(_("Null characters and lone surrogates are not allowed."))
        if float in kinds and not all(map(math.isfinite, _of_kind(float, level))):
            raise ValueError(_("NaN and infinities are not allowed."))
        if not kinds & {dict, list}:
            return
        level = [*filter(None, level)]
        dicts = _of_kind(dict, level)
        held = [*map(dict.values, dicts), *_of_kind(list, level), *dicts * texts]
        level = [*itertools.chain.from_iterable(held)]
    raise ValueError(_("It is nested too deeply."))


def _of_kind(kind, values):
    return [value for value in values if type(value) is kind]


def _strict_object(pairs):
    found = dict(pairs) if pairs else {}
    if len(found) != len(pairs):
        raise ValueError(_("An object has a key twice."))
    return found


def _parse_json(text):
    """Return the value of a JSON text; raise ValueError for what is none, has a key
    twice, or cannot be stored."""
    try:
        value = json.loads(text, object_pairs_hook=_strict_object)
    except RecursionError:
        raise ValueError(_("It is nested too deeply.")) from None
    # JSON has no control characters, UTF-8 no surrogates, unless they are escaped.
    _check_storable(value, "\\u" in text)
    return value


def _read_body(request):
    """Set `request.data`: for JSON the parsed value, else request.POST.

    Raise AJAXError 400 if it cannot be read, or has text that no database stores.
    """
    try:
        if request.content_type == _JSON_TYPE and request.body:
            request.data = _parse_json(request.body.decode())
        else:
            request.data = request.POST
            _check_storable(dict(request.POST.lists()))
    except ValueError as error:
        kind = "JSON" if request.content_type == _JSON_TYPE else _("form")
        message = _("The body is not valid (%(kind)s): %(error)s")
        raise AJAXError(400, message % {"kind": kind, "error": error}) from None


class _FormValue(list):
    """What one key of a form came with: texts and files."""


def _submitted(request):
    """Return by name what was sent: JSON values, or _FormValues.

    Raise AJAXError 400 if it is no object.
    """
    if isinstance(request.data, MultiValueDict):
        sent = {}
        for key, values in (*request.POST.lists(), *request.FILES.lists()):
            sent.setdefault(key.removesuffix("[]"), _FormValue()).extend(values)
    elif isinstance(request.data, dict):
        sent = dict(request.data)
    else:
        raise AJAXError(400, _("The body has to be a JSON object."))
    sent.pop("csrfmiddlewaretoken", None)
    return sent


def _unknown(key, names):
    """Return the error for a key that is not shown, with what may have been meant."""
    close = difflib.get_close_matches(key, names, 1) if len(key) <= 100 else ()
    if close:
        return [_('Unknown key. Did you mean "%s"?') % close[0]]
    return [_("Unknown key.")]


def _invalid_value():
    return ValidationError(_("This value cannot be read."))


def _single(field, sent):
    """Return the one value that was sent for a field, None for NULL."""
    value = sent
    if isinstance(sent, _FormValue):
        if len(sent) != 1:
            raise ValidationError(_("This key takes one value."))
        is_nullable = field.null and not isinstance(field, _TEXT_FIELDS)
        value = None if is_nullable and sent[0] in ("", "null") else sent[0]
    if value is None and not field.null:
        raise ValidationError(field.error_messages["null"])
    return value


def _several(sent):
    """Return the list that came for a key: a JSON list, or a form's repeated key."""
    if isinstance(sent, _FormValue) and len(sent) == 1:
        if sent[0] == "":
            return []
        if str(sent[0])[:1] == "[":
            try:
                sent = _parse_json(sent[0])
            except (TypeError, ValueError):
                raise _invalid_value() from None
    if not isinstance(sent, list):
        raise ValidationError(_("This key takes a list."))
    return sent


_BOOLEANS = {"true": True, "on": True, "false": False, "off": False}


def _text(value):
    """Return a JSON text or number the way a form would send it."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _invalid_value()
    return str(value)


def _read_value(field, sent):
    """Return what a field (no relation, no file) makes of what was sent for it.

    Raise ValidationError if it cannot be one. Whether it is a good one (length, range,
    choices) is for validation to say.
    """
    value = _single(field, sent)
    if value is None:
        return None
    try:
        if isinstance(field, models.JSONField):
            return _parse_json(value) if isinstance(sent, _FormValue) else value
        if isinstance(field, models.BooleanField):
            is_read = isinstance(value, bool)
            word = value if is_read else _BOOLEANS.get(_text(value).lower(), value)
            return field.to_python(word)
        if isinstance(field, models.FilePathField):
            return field.formfield(required=not field.blank).clean(value)
        if hasattr(field, "base_field") and isinstance(value, list):
            value = _dumps(value)  # PostgreSQL's ArrayField, which reads JSON.
        value = field.to_python(_text(value))
        if isinstance(value, datetime.datetime):
            value = _read_datetime(value)
        _check_storable(value)
        return value
    except (ArithmeticError, TypeError, ValueError):
        raise _invalid_value() from None


def _read_datetime(value):
    """Return a date-time with or without offset as USE_TZ wants it."""
    value = from_current_timezone(value)
    if timezone.is_aware(value):
        value = value.astimezone(datetime.timezone.utc)
        value = value if settings.USE_TZ else timezone.make_naive(value)
    return value


def _parse_pk(model, value):
    """Return a pk as its field has it; raise ValidationError for what is none."""
    field = _root_key(model)
    value = _read_value(field, value)
    field.run_validators(value)
    return value


def _sent_pk(model, value):
    """Return the pk sent for a relation, bare or in an object that holds it."""
    return _parse_pk(model, value.get("pk") if isinstance(value, dict) else value)


def _read_file(field, sent):
    """Return the upload, False to clear the file, or None to leave it as it is."""
    value = sent[0] if isinstance(sent, _FormValue) and len(sent) == 1 else sent
    if value is None or value == "null":
        if not field.blank:
            raise ValidationError(field.error_messages["null"])
        return False
    if isinstance(value, File):
        return field.formfield(required=False).clean(value, None)
    if not isinstance(value, str):
        raise _invalid_value()
    return None


def _read_tags(manager, sent):
    """Return the tag names that were sent: a list, or text as taggit parses it."""
    from taggit.utils import parse_tags

    value = sent[0] if isinstance(sent, _FormValue) and len(sent) == 1 else sent
    value = parse_tags(value) if isinstance(value, str) else value
    if not isinstance(value, list) or len(value) > _MAX_TAGS:
        raise ValidationError(_("Tags are text, or a list of at most %s.") % _MAX_TAGS)
    names = [each.get("name") if isinstance(each, dict) else each for each in value]
    if not all(isinstance(name, str) for name in names):
        raise _invalid_value()
    field = manager.remote_field.model._meta.get_field("name")
    return sorted({field.clean(name, None) for name in names})


# --- What `list` lets a client ask for ------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _end_of_path(model, name):
    """Return the field at the end of a path as in `filter()`, and its lookups."""
    field, rest, opts = None, name.split(LOOKUP_SEP), model._meta
    while rest and opts:
        try:
            field = opts.pk if rest[0] == "pk" else opts.get_field(rest[0])
        except FieldDoesNotExist:
            break
        opts = getattr(field.related_model, "_meta", None)
        del rest[0]
    return field, rest


#: What `list` always takes.
_PARAMETERS = ("order_by", "items_per_page", "current_page")

#: Lookups that compare with a value as the field itself has it.
_COMPARISONS = ([], ["exact"], ["gt"], ["gte"], ["lt"], ["lte"])
#: Lookups that are nobody's to choose values for: a pattern can take for ever.
_NOT_OFFERED = ("range", "regex", "iregex")


def _filter_condition(model, entry, value):
    """Return the condition that an entry of `list_filter` has one value."""
    # A list means any of its values, one by one.
    entry = entry.removesuffix(f"{LOOKUP_SEP}in")
    field, lookups = _end_of_path(model, entry)
    if lookups == ["isnull"]:
        return Q((entry, _read_value(models.BooleanField(), value)))
    is_text = isinstance(field, _TEXT_FIELDS)
    if not lookups and (value is None or value == "null" and not is_text):
        return Q((f"{entry}{LOOKUP_SEP}isnull", True))
    if field.is_relation and lookups in ([], ["exact"]):
        entry = entry.removesuffix(f"{LOOKUP_SEP}exact") + f"{LOOKUP_SEP}pk"
        return Q((entry, _sent_pk(field.related_model, value)))
    if lookups in _COMPARISONS:
        value = _read_value(field, value)
    elif not isinstance(value, (str, int, float)) or lookups[-1] in _NOT_OFFERED:
        raise _invalid_value()
    if isinstance(value, str) and len(value) > _MAX_FILTER_LENGTH:
        raise ValidationError(_("At most %s characters.") % _MAX_FILTER_LENGTH)
    return Q((entry, value))


def _whole_number(sent, default):
    """Return the whole number that was sent, the default for junk."""
    text = str(sent[0] if isinstance(sent, _FormValue) else sent)
    return int(text[:30]) if re.fullmatch("-?[0-9]+", text) else default


def _invalid_parameters(errors):
    return AJAXError(400, _("Invalid parameters."), errors=errors)


# --- Decorators -----------------------------------------------------------------------


def _login_url():
    """Return what goes beside an error that logging in would help."""
    return {"login_url": resolve_url(settings.LOGIN_URL)}


def _require_login(request):
    if not request.user.is_authenticated:
        raise AJAXError(403, _("User must be authenticated."), **_login_url())


def login_required(view):
    """Let only logged-in users call an ad-hoc endpoint, sync or async.

    Raise AJAXError 403, which is answered as JSON, for everybody else.
    """

    @functools.wraps(view)
    def guarded(request, *args, **kwargs):
        _require_login(request)
        return view(request, *args, **kwargs)  # Of an async one, what is awaited.

    return guarded


def allowed_methods(*methods):
    """Let `ModelEndpoint.authenticate`, which it decorates, pass only these."""

    def decorate(authenticate):
        @functools.wraps(authenticate)
        def guarded(self, request, application=None, method=None):
            if (method or self.method) not in methods:
                raise AJAXError(403, _("Access denied."))
            return _call(authenticate, self, request, application, method)

        return guarded

    return decorate


def json_response(view):
    """Give any view the answers of an endpoint: JSON for what it returns and raises."""

    @functools.wraps(view)
    def answered(request, *args, **kwargs):
        try:
            with _atomic_requests(answered):
                result = _called(view, request, *args, **kwargs)
                return _success_response(result, request)
        except Exception as error:
            return _error_response(request, error)

    spared = getattr(view, "_non_atomic_requests", ())
    answered._non_atomic_requests = _EveryAlias(spared)
    return answered


def _called(view, request, *args, **kwargs):
    """Return what a view returns; an async one is run with its user loaded already."""
    result = view(request, *args, **kwargs)
    if not inspect.isawaitable(result):
        return result
    bool(getattr(request, "user", None))

    async def finished():
        return await result

    return async_to_sync(finished)()


def _call(hook, *arguments, **named):
    """Call a hook with as many of the arguments as it takes: old ones take fewer. What
    is named goes by keyword to one that takes it so, else by position."""
    function = getattr(hook, "__func__", hook)
    if named and all(_accepts(function, name) for name in named):
        return hook(*arguments, **named)
    arguments = (*arguments, *named.values())
    most = _most_arguments(function)
    return hook(*arguments[: most and most - (function is not hook)])


@functools.lru_cache(maxsize=256)
def _most_arguments(function):
    """Return how many arguments a function takes by position, None for any number."""
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return len(kinds) - kinds.count(inspect.Parameter.KEYWORD_ONLY)


def _takes_request(function, *before):
    """Whether a function can be called with a request, named so, and nothing else."""
    names = [*inspect.signature(function).parameters]
    try:
        inspect.signature(function, follow_wrapped=False).bind(*before, None)
    except TypeError:
        return False
    return names[len(before) : len(before) + 1] == ["request"]


@functools.lru_cache(maxsize=256)
def _accepts(function, keyword):
    """Whether a function can be given a keyword."""
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == keyword or p.kind is p.VAR_KEYWORD for p in parameters)


# --- Errors as responses --------------------------------------------------------------

#: What other exceptions are answered as: kinds, status, whether clients see the text.
_STATUSES = (
    ((RequestDataTooBig, TooManyFieldsSent, TooManyFilesSent), 413, True),
    (Http404, 404, True),
    (PermissionDenied, 403, True),
    ((SuspiciousOperation, BadRequest), 400, True),
    ((MultiPartParserError, UnreadablePostError), 400, True),
    (IntegrityError, 409, False),
    # SQLite's driver raises OverflowError for a number beyond its columns.
    ((DataError, OverflowError), 400, False),
    (getattr(core_exceptions, "ObjectNotUpdated", ()), 409, False),
)


#: How databases say that somebody else held a lock for too long.
_LOCKED = re.compile(r"is locked|lock timeout|lock wait|deadlock", re.IGNORECASE)


def _as_ajax_error(error):
    """Return the AJAXError that an exception stands for, None if nobody expected it."""
    if isinstance(error, AJAXError):
        return error
    if isinstance(error, ValidationError):
        errors = ValidationError(error.update_error_dict({})).message_dict
        return AJAXError(400, " ".join(error.messages), errors=errors)
    for kinds, code, is_public in _STATUSES:
        if isinstance(error, kinds):
            # A Resolver404 carries the URLconf, which is nobody's business.
            said = is_public and error.args and isinstance(error.args[0], str | Promise)
            text = str(error) if said else ""
            return AJAXError(code, text or _MESSAGES[code])
    if getattr(error.__cause__, "sqlstate", None) == "54000":
        return AJAXError(400, _MESSAGES[400])  # A text beyond PostgreSQL's index.
    if isinstance(error, OperationalError) and _LOCKED.search(str(error)):
        return AJAXError(503, _("The database is busy; try again."))
    if type(error) is DatabaseError and error.__cause__ is None:
        # What Django 5.2 raises where later versions have ObjectNotUpdated.
        return AJAXError(409, _MESSAGES[409])
    return None


def _unhandled(error):
    """Return the AJAXError for an unexpected exception; details in DEBUG only."""
    if not settings.DEBUG:
        return AJAXError(500, _("Internal server error."))
    frames = traceback.extract_tb(error.__traceback__)
    lines = [
        {"file": each.filename, "line": each.lineno, "in": each.name, "code": each.line}
        for each in frames
    ]
    return AJAXError(500, f"{type(error).__name__}: {error}", traceback=lines)


def _error_response(request, error):
    """Return any exception as a JSON response; log and report it as Django would."""
    answer = _as_ajax_error(error)
    try:
        response = answer and answer.get_response()
    except Exception as unencodable:
        answer, error = None, unencodable
    if answer is None:
        got_request_exception.send(sender=None, request=request)
        response = _unhandled(error).get_response()
    options = {"response": response, "request": request}
    if answer is None:
        said = (response.reason_phrase, request.path)
        log_response("%s: %s", *said, exception=error, **options)
    elif isinstance(error, (DatabaseError, OverflowError)):
        # As an argument the text is escaped: it may quote what a client sent.
        said = (response.reason_phrase, request.path, str(error))
        log_response("%s: %s: %s", *said, **options)
    return response


# --- Transactions ---------------------------------------------------------------------


@contextlib.contextmanager
def _transaction(using, locks=True):
    """Run a block as one transaction. On SQLite it begins by locking the database, if
    it `locks`: other writers wait then, where their writes would fail after a read."""
    connection = connections[using]
    connection.ensure_connection()
    mode = vars(connection).get("transaction_mode")
    connection.transaction_mode = "IMMEDIATE" if locks else mode  # SQLite's only.
    try:
        with transaction.atomic(using=using):
            connection.transaction_mode = mode
            yield
    finally:
        connection.transaction_mode = mode


class _EveryAlias(set):
    """The `_non_atomic_requests` of a view that opens transactions itself: to Django
    every alias is in it; those that it really holds nobody opens one for."""

    def __contains__(self, alias):
        return True


@contextlib.contextmanager
def _atomic_requests(view, locks=True):
    """Open the transactions that ATOMIC_REQUESTS wants around a view: here, so that an
    error reply rolls back, and what fails at the commit is an error reply."""
    spared = {*getattr(view, "_non_atomic_requests", ())}
    with contextlib.ExitStack() as stack:
        for alias, options in connections.settings.items():
            if options["ATOMIC_REQUESTS"] and alias not in spared:
                stack.enter_context(_transaction(alias, locks))
        yield


# --- Endpoints ------------------------------------------------------------------------


class BaseAuthentication:
    """Who may call models and forms: every user that is logged in and active."""

    def is_authenticated(self, request, application, method):
        """Return whether the request's user may call the operation `method`."""
        return request.user.is_authenticated and request.user.is_active


class BaseEndpoint:
    """A callable endpoint: extend it, define `__call__(self, request)`, and put an
    instance into endpoints.py."""

    csrf_exempt = False

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        # As a function belongs to the module that defines it, an instance belongs to
        # the one that makes it: only there it is an endpoint.
        self.__module__ = sys._getframe(1).f_globals.get("__name__")
        return self

    def _encode_record(self, record):
        """Return a record as a dict."""
        return encoder.encode(record)

    def _encode_data(self, data):
        """Return a QuerySet, or any iterable of records, as a list of dicts."""
        return encoder.encode(data)


class _Function(BaseEndpoint):
    """An ad-hoc endpoint, as `dispatch` knows it."""

    def __init__(self, view):
        self.view = view
        marked = (view, type(view).__call__)
        self.csrf_exempt = any(getattr(each, "csrf_exempt", False) for each in marked)
        self.is_open = not all(getattr(each, "login_required", True) for each in marked)
        self._non_atomic_requests = getattr(view, "_non_atomic_requests", ())

    def authorize(self, request):
        """Want login where LoginRequiredMiddleware does."""
        if not self.is_open and _has_login_middleware(tuple(settings.MIDDLEWARE)):
            _require_login(request)

    def run(self, request):
        return _called(self.view, request)


@functools.lru_cache(maxsize=8)
def _has_login_middleware(middleware):
    from django.contrib.auth.middleware import LoginRequiredMiddleware as wanted

    found = map(import_string, middleware)
    return any(isinstance(each, type) and issubclass(each, wanted) for each in found)


class _ServedEndpoint(BaseEndpoint):
    """What endpoints of models and forms share: who may call them, and with what body.

    There is one instance per request, with `request`, `application` (the label in the
    path), `model` (the form's class for a form), `method` (the operation, or the tags
    manager), `pk` and the tags `command` (as in the path, None without one).
    """

    request = None
    operation = "create"

    def __init__(self, application, model, method, pk=None, command=None):
        self.application = application
        self.model = model
        self.method = method
        self.pk = pk
        self.command = command

    @property
    def user(self):
        """The request's user."""
        return self.request.user

    def authenticate(self, request, application, method):
        """Return whether the user may call the operation at all; asked before anything
        else. By default AJAX_AUTHENTICATION says."""
        authentication = import_string(_setting("AJAX_AUTHENTICATION"))()
        return authentication.is_authenticated(request, application, method)

    def authorize(self, request):
        """Raise AJAXError 403 for who may not call, 415 for what cannot be read."""
        self.request = request
        if not self.authenticate(request, self.application, self.method):
            extra = {} if self.user.is_authenticated else _login_url()
            raise AJAXError(403, _("User is not authorized."), **extra)
        if request.content_type not in _TYPES and request.body:
            raise AJAXError(415, _("Send %s.") % ", ".join(_TYPES))

    def resolve(self):
        """Return the endpoint; raise AJAXError if there is no such operation."""
        return self

    def run(self, request):
        """Run the operation."""
        return _called(getattr(self, self.operation), request)


#: The operations every ModelEndpoint has, and whether each is on a record.
_OPERATIONS = {
    "create": False,
    "list": False,
    "get": True,
    "update": True,
    "delete": True,
}
#: The commands on a TaggableManager, and whether each changes the record.
_COMMANDS = {"add": True, "remove": True, "set": True, "clear": True, "similar": False}


def _is_writable(field, is_named):
    """Whether clients may write a field that they see."""
    if field.many_to_many and not _is_tags_manager(field):
        if not field.remote_field.through._meta.auto_created:
            return False
    if field.generated or hasattr(field, "range_type"):
        return False  # PostgreSQL's ranges are shown, not written.
    return is_named or field.editable and not field.primary_key


def _copy(record):
    """Return a copy of a record that can be changed without changing the record."""
    copied = copy.copy(record)
    for name, value in vars(copied).items():
        if isinstance(value, (dict, list)):
            setattr(copied, name, copy.deepcopy(value))
    return copied


def _is_same(field, stored, modified):
    """Whether two instances have the same value, as the field stores it."""
    before, after = (vars(each).get(field.attname) for each in (stored, modified))
    if isinstance(after, File) and not getattr(after, "_committed", False):
        return False  # A new upload, whatever its name.
    if isinstance(field, models.JSONField):
        before, after = repr(before), repr(after)  # To Python True is 1.
    return before is after or before == after


def _insert_first(record):
    """Let the first save() of a new record insert: Django's, asked by a model's own to
    save, would first try to update whoever has the key by now."""

    def insert(**options):
        del record.save_base
        record.save_base(**options | {"force_insert": (models.Model,)})

    record.save_base = insert


@functools.cache
def _operations(endpoint_class):
    """Return by name of each operation whether it is on a record, None for either."""
    found = dict(_OPERATIONS)
    for base in endpoint_class.__mro__:
        if issubclass(base, ModelEndpoint) and base is not ModelEndpoint:
            for name, value in vars(base).items():
                is_last = getattr(endpoint_class, name) is value
                if is_last and _is_operation(name, value):
                    found[name] = None
    return found


def _is_operation(name, value):
    """Whether an attribute is a public method of its own that only wants `request`."""
    if name.startswith("_") or hasattr(ModelEndpoint, name):
        return False
    return inspect.isfunction(value) and _takes_request(inspect.unwrap(value), "self")


class _Input:
    """What was read of a body: errors by key, and what is saved after the record."""

    def __init__(self, request):
        self.values = _submitted(request)
        self.errors = {}
        self.relations = {}
        #: The foreign keys that were found to refer to something.
        self.found = set()

    def refuse_unknown(self, shown):
        """Hold an error for each key that is not one of those shown."""
        unknown = [key for key in self.values if key not in shown]
        for key in unknown[:_MAX_UNKNOWN_KEYS]:
            self.errors[key] = _unknown(key, shown)


class ModelEndpoint(_ServedEndpoint):
    """Serves the records of a model, the way ModelAdmin does; register a subclass.

    In every hook `self.request`, `self.user`, `self.model`, `self.pk` and `self.record`
    are at hand. A public method whose only required argument is `request` is an
    operation of its own, with or without a record.
    """

    # What is shown and written

    #: Names of what clients see and may send; None and "__all__" are all model fields.
    #: May also name properties and methods of the endpoint (taking the record) or
    #: model.
    fields = None
    #: Names that are neither seen nor written.
    exclude = ()
    #: Names that are seen, never written; `immutable_fields` is the old name.
    readonly_fields = ()
    immutable_fields = ()
    #: Which foreign keys are shown as whole records: True (all, recursively), a number
    #: of levels, names like "category__parent", or False.
    expand = True

    # What `list` does

    #: The order of `list`; None is the queryset's or model's own.
    ordering = None
    #: What clients may order by, search in, and filter on, as in `filter()`.
    sortable_by = ()
    search_fields = ()
    list_filter = ()
    #: Page sizes; None is the setting AJAX_MAX_PER_PAGE.
    list_per_page = 20
    max_per_page = None

    # Who may do what

    #: Names of the operations offered, None for all; a tags manager's name stands for
    #: its commands.
    operations = None
    #: Whether create, update and delete want Django's permissions too; None is True for
    #: user models.
    require_permissions = None

    @classmethod
    def for_model(cls, model, request):
        """Return an endpoint that speaks for a model within another one's request."""
        found = cls(model._meta.app_label, model, "get")
        found.request = request
        return found

    # Operations

    def create(self, request):
        """Save a new record; return it as `get` would."""
        with _transaction(self._using):
            self.record = record = self.model()
            sent = self._read(request, record)
            with self._refusing(sent):
                self.prepare_record(request, record, True)
                self._permit(self.can_create, "add", record)
            self._validate(record, sent)
            _insert_first(record)
            self.save_record(request, record, True)
            self._save_relations(record, sent)
            ajax_created.send(sender=self.model, instance=record, request=request)
            return self._answer(record.pk)

    def get(self, request):
        """Return the record."""
        plan = self._plan
        batch = plan.load_one(self._parsed_pk(), self)
        if not batch.pks:
            raise self._not_found()
        if plan.asks:
            self.record = batch.records[0]
            self._asked_record()
        return json.loads(plan.encode(batch)[0])

    def update(self, request):
        """Save what changed of the record; return it as `get` would."""
        with _transaction(self._using):
            stored = self._get_record(locked=True)
            modified = _copy(stored)
            sent = self._read(request, modified)
            with self._refusing(sent):
                self.prepare_record(request, modified, False)
                self._permit(self.can_update, "change", stored, modified=modified)
            self._validate(modified, sent, stored)
            fields = stored._meta.concrete_fields
            is_same = all(_is_same(each, stored, modified) for each in fields)
            if sent.relations or not is_same:
                self.record = modified
                if not is_same:
                    self.save_record(request, modified, False)
                self._save_relations(modified, sent)
                ajax_updated.send(sender=self.model, instance=modified, request=request)
            return self._answer(stored.pk)

    def delete(self, request):
        """Delete the record; return {"pk": ...}."""
        with _transaction(self._using):
            record = self._get_record(locked=True)
            self._permit(self.can_delete, "delete", record)
            payload = {"pk": record.pk}
            self.delete_record(request, record)
            ajax_deleted.send(
                sender=self.model, instance=record, payload=payload, request=request
            )
            return payload

    def list(self, request):
        """Return a page of records, with `total` and the like beside it."""
        if not self.can_list(self.user):
            raise _forbidden()
        sent = _submitted(request)
        size, page = self._page(sent)
        order, conditions = self._order_and_conditions(sent)
        start = (page - 1) * size
        batch, total = self._plan.load_page(self, conditions, order, start, size)
        return _Page(
            self._plan.encode(self._plan.allowed(batch)),
            {
                "total": total,
                "total_pages": max(1, math.ceil(total / size)),
                "current_page": page,
                "items_per_page": size,
            },
        )

    def tags(self, request):
        """Run one of the tags commands; return all tags, or what is similar."""
        if self.command == "similar":
            return self._similar(request, self._asked_record())
        with _transaction(self._using):
            record = self._asked_record(locked=True)
            self._permit(self.can_update, "change", record, modified=record)
            is_clear = self.command == "clear"
            names = () if is_clear else self._read_tags_parameter(request)
            run = getattr(getattr(record, self.method), self.command)
            run(names) if self.command == "set" else run(*names)
            return json.loads(self._tags_part.of([record.pk], self._using)[0])

    # Records and querysets

    @cached_property
    def record(self):
        """The record of the path, None without one; AJAXError 404 if there is none."""
        return None if self.pk is None else self._get_record()

    def get_queryset(self, request):
        """Return what there is for this request: what is outside does not exist."""
        return self.model._default_manager.all()

    def get_field_queryset(self, request, field):
        """Return the records that may be sent for a relation of the model.

        `limit_choices_to` narrows it further.
        """
        related = field.remote_field.model
        return endpoint.find(related).for_model(related, request).get_queryset(request)

    def prepare_record(self, request, record, created):
        """Change a record that was read, before permissions are asked."""

    def save_record(self, request, record, created):
        """Save a record that is permitted and valid, within the transaction."""
        record.save()

    def delete_record(self, request, record):
        """Delete a record, within the transaction."""
        record.delete()

    @cached_property
    def _using(self):
        """The database that is written to."""
        return router.db_for_write(self.model)

    def _get_record(self, locked=False):
        """Return the record of the path, `locked` until the transaction ends if wanted.

        Raise AJAXError 400 without a pk, 404 if there is none.
        """
        pk = self._parsed_pk()
        self.record = None  # For who asks in get_queryset: it is being fetched.
        if locked and not self._plan.is_narrowed:
            self.record = self._plan.lock_one(pk, self._using)
        else:
            rows = self.get_queryset(self.request).filter(pk=pk)
            rows = self._locked(rows, pk) if locked else rows
            self.record = next(iter(rows[:1]), None)
        if self.record is None:
            raise self._not_found()
        return self.record

    def _locked(self, rows, pk):
        """Lock the record that somebody's own query is about; return that query.

        It may be one that cannot lock: with DISTINCT, GROUP BY or an outer join.
        """
        if connections[self._using].features.has_select_for_update:
            plain = models.QuerySet(self.model, using=self._using)
            len(plain.select_for_update().filter(pk=pk))
        return rows.using(self._using)

    def _asked_record(self, locked=False):
        """Return the record of the path; raise AJAXError 403 if can_get says no."""
        record = self._get_record(locked) if locked else self.record
        if not self.can_get(self.user, record):
            raise _forbidden()
        return record

    def _parsed_pk(self):
        if self.pk is None:
            raise AJAXError(400, _("Invalid request for record."))
        try:
            return _parse_pk(self.model, self.pk)
        except ValidationError:
            raise self._not_found() from None

    def _not_found(self):
        message = _('%(model)s with id of "%(pk)s" not found.')
        return AJAXError(404, message % {"model": self.model.__name__, "pk": self.pk})

    def _answer(self, pk):
        """Return a record that was written as `get` shows it, else its pk."""
        batch = self._plan.load_one(pk, self, self._using)
        texts = self._plan.encode(self._plan.allowed(batch))
        return json.loads(texts[0]) if texts else {"pk": pk}

    def _similar(self, request, record):
        """Return records that share tags with this one, most shared first."""
        tags = self._tags_part
        using = self.get_queryset(request).db
        items = tags.through._base_manager.using(using).filter(**tags.about())
        mine = items.filter(**{tags.key: record.pk}).values("tag_id")
        shared = items.filter(tag_id__in=mine)
        count = (
            shared.filter(**{tags.key: tags.outer_pk})
            .order_by()
            .values(tags.key)
            .values(shared=Count("pk"))
        )
        found = (
            self._plan.queryset(self)
            .filter(pk__in=shared.values_list(tags.record_pk))
            .exclude(pk=record.pk)
            .order_by(Subquery(count).desc(), "pk")
        )
        batch = self._plan.load(found[: self._sizes()[0]], self)
        texts = self._plan.encode(self._plan.allowed(batch))
        return [json.loads(text) for text in texts]

    # Fields and reading

    @cached_property
    def _plan(self):
        return _kept_plan(self.model, type(self), True)

    @property
    def _tags_part(self):
        """The part of the plan that the path names in the place of a tags manager."""
        return next((p for p in self._plan.parts if p.name == self.method), None)

    @cached_property
    def _writable(self):
        """The fields that clients may write, by the key they are sent under."""
        if self.fields is None and _is_user_model(self.model):
            return {}
        fields = _model_fields(self.model)
        found = {n: fields[n] for n in self._plan.names if n in fields}
        found = {n: f for n, f in found.items() if _is_writable(f, n in self._named)}
        pk = self.model._meta.pk
        pk = _root_key(self.model) if _is_parent_link(pk) else pk
        if not isinstance(pk, models.AutoField) and {"pk", pk.name} & {*self._named}:
            found["pk"] = found[pk.name] = pk
        never = {*self.readonly_fields, *self.immutable_fields}
        return {n: f for n, f in found.items() if not never & {n, f.name}}

    @property
    def _named(self):
        """The names that `fields` lists one by one."""
        return () if self.fields in (None, "__all__") else self.fields

    def _read(self, request, record):
        """Read the body onto a record; return the rest of it, and the errors."""
        sent = _Input(request)
        for key, value in sent.values.items():
            field = self._writable.get(key)
            if field is None or field.primary_key and not record._state.adding:
                continue
            try:
                self._read_field(request, record, field, value, sent)
            except ValidationError as error:
                sent.errors[key] = error.messages
        sent.refuse_unknown([*self._plan.names, *self._writable])
        return sent

    def _read_field(self, request, record, field, value, sent):
        if _is_tags_manager(field):
            sent.relations[field.name] = _read_tags(field, value)
        elif field.many_to_many:
            pks = self._read_members(request, record, field, value)
            sent.relations[field.name] = pks
        elif isinstance(field, models.ForeignKey):
            self._read_foreign_key(request, record, field, value, sent)
        elif isinstance(field, models.FileField):
            field.save_form_data(record, _read_file(field, value))
        else:
            setattr(record, field.attname, _read_value(field, value))

    def _read_foreign_key(self, request, record, field, value, sent):
        value = _single(field, value)
        if value is None:
            setattr(record, field.name, None)
            return
        pk = _sent_pk(field.remote_field.model, value)
        is_pk = field.target_field.primary_key and not record._state.adding
        if is_pk and pk == getattr(record, field.attname):
            return  # What is there already may stay: a record can be sent back whole.
        if self._is_there(request, field, pk):
            setattr(record, field.attname, pk)
        else:
            setattr(record, field.name, self._chosen(request, field, [pk])[pk])
        field.run_validators(getattr(record, field.attname))
        sent.found.add(field.name)

    def _read_members(self, request, record, field, value):
        values = _several(value)
        if not values and not field.blank:
            raise ValidationError(field.error_messages["blank"])
        if len(values) > _MAX_MEMBERS:
            raise ValidationError(_("At most %s values.") % _MAX_MEMBERS)
        pks = {_sent_pk(field.remote_field.model, each) for each in values}
        # What is there already may stay: a record can be sent back whole.
        is_new = record._state.adding
        there = (
            () if is_new else getattr(record, field.name).values_list("pk", flat=True)
        )
        self._chosen(request, field, pks.difference(there))
        return pks

    def _is_there(self, request, field, pk):
        """Whether a record may be referred to, as far as its plan can tell: quickly."""
        if _overrides(type(self), "get_field_queryset") or field.get_limit_choices_to():
            return False
        plan = _kept_plan(field.remote_field.model, None, True)
        found = plan.allowed(plan.load_one(pk, plan.endpoint(request)))
        return field.target_field.primary_key and bool(found.pks)

    def _chosen(self, request, field, pks):
        """Return by pk the related records that the client refers to.

        Raise ValidationError for one to nothing, or to what may not be referred to.
        """
        related = field.remote_field.model
        asked = endpoint.find(related).for_model(related, request)
        rows = self.get_field_queryset(request, field).filter(pk__in=pks)
        rows = rows.complex_filter(field.get_limit_choices_to()) if pks else ()
        found = {each.pk: each for each in rows if asked.can_get(self.user, each)}
        for pk in pks:
            if pk not in found:
                raise ValidationError(
                    _("%(model)s with pk %(pk)s does not exist."),
                    params={"model": related._meta.verbose_name, "pk": pk},
                )
        return found

    def _read_tags_parameter(self, request):
        """Return the names in the parameter `tags` of a tags command."""
        sent = _Input(request)
        sent.refuse_unknown(["tags"])
        try:
            if "tags" not in sent.values:
                raise ValidationError(_("This field is required."))
            manager = self.model._meta.get_field(self.method)
            names = _read_tags(manager, sent.values["tags"])
        except ValidationError as error:
            sent.errors["tags"] = error.messages
        if sent.errors:
            raise _invalid(sent.errors)
        return names

    # Validation and saving

    @contextlib.contextmanager
    def _refusing(self, sent):
        """Ask the hooks about a record while errors of reading it are held.

        What they raise then is a refusal: they may have met a value that is not there.
        """
        try:
            yield
        except Exception as error:
            # What a record without a relation that it has to have raises is both.
            kinds = (AttributeError, core_exceptions.ObjectDoesNotExist)
            if sent.errors or all(isinstance(error, kind) for kind in kinds):
                raise _forbidden() from error
            raise

    def _validate(self, record, sent, stored=None):
        """Raise AJAXError 400 with all that is wrong with a record that was read.

        This is Model.full_clean(), but fields that are the same as `stored` may be
        wrong, and the rest is asked only when each field is fine by itself.
        """
        fields = record._meta.concrete_fields if stored else ()
        same = {each.name for each in fields if _is_same(each, stored, record)}
        skipped = same | sent.found | sent.errors.keys()
        errors = dict(sent.errors)
        try:
            record.clean_fields(skipped)
            if not errors:
                record.clean_fields = lambda exclude=None: None  # Done.
                record.full_clean()
        except ValidationError as error:
            found = ValidationError(error.update_error_dict({})).message_dict
            for name, messages in found.items():
                key = name if name in self._plan.names else "pk"
                if name not in {*self._plan.names, *_pk_names(self.model)}:
                    key = NON_FIELD_ERRORS
                errors.setdefault(key, []).extend(messages)
        finally:
            vars(record).pop("clean_fields", None)
        if errors:
            raise _invalid(errors)

    def _save_relations(self, record, sent):
        for name, values in sent.relations.items():
            getattr(record, name).set(values)

    # Paging, order and search

    def _sizes(self):
        """Return the page size and the largest a client may ask for."""
        most = self.max_per_page
        most = int(_setting("AJAX_MAX_PER_PAGE") if most is None else most)
        return min(self.list_per_page, most), most

    def _page(self, sent):
        """Return the page size and number that were sent."""
        default, most = self._sizes()
        size = _whole_number(sent.pop("items_per_page", None), default)
        page = _whole_number(sent.pop("current_page", None), 1)
        return min(max(size, 1), most), max(page, 1)

    def _order_and_conditions(self, sent):
        """Return what was sent to order and to narrow the list, as for order_by() and
        filter()."""
        order, conditions, errors = self.ordering, [], {}
        for key, value in sent.items():
            try:
                if key == "order_by":
                    order = self._order(value) or order
                else:
                    conditions.append(self._condition(key, value))
            except ValidationError as error:
                errors[key] = error.messages
            except (ArithmeticError, LookupError, TypeError, ValueError):
                errors[key] = _invalid_value().messages
            if len(errors) == _MAX_UNKNOWN_KEYS:
                break
        if errors:
            raise _invalid_parameters(errors)
        return order, conditions

    def _order(self, value):
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise _invalid_value()
        keys = [key.strip() for text in texts for key in text.split(",") if key.strip()]
        if len(keys) > _MAX_SORT_KEYS:
            raise ValidationError(_("At most %s names.") % _MAX_SORT_KEYS)
        for key in keys:
            if key.removeprefix("-") not in self.sortable_by:
                raise ValidationError(_unknown(key, self.sortable_by))
        return keys

    def _condition(self, key, value):
        if key == "search" and self.search_fields:
            return self._search(value)
        if key in self.list_filter:
            return self._filter(key, value)
        managers = {p.name: p for p in self._plan.parts if isinstance(p, _Tags)}
        if key in managers:
            return self._tagged(managers[key], value)
        names = [*self.list_filter, *managers, *_PARAMETERS]
        names += ["search"] * bool(self.search_fields)
        raise ValidationError(_unknown(key, names))

    def _search(self, value):
        """Return the condition that all words are found, as the admin finds them."""
        from django.contrib import admin

        text = value[0] if isinstance(value, _FormValue) and len(value) == 1 else value
        if not isinstance(text, str) or len(text) > _MAX_FILTER_LENGTH:
            raise _invalid_value()
        if len(text.split()) > _MAX_SEARCH_WORDS:
            raise ValidationError(_("At most %s words.") % _MAX_SEARCH_WORDS)
        searching = admin.ModelAdmin(self.model, admin.site)
        searching.search_fields = self.search_fields
        rows = self.model._base_manager.all()
        rows, _is_repeated = searching.get_search_results(self.request, rows, text)
        return Q(pk__in=rows.values("pk"))

    def _filter(self, entry, value):
        """Return the condition that a filter has a value, or any of a list."""
        from django.contrib.admin.utils import lookup_spawns_duplicates

        values = value if isinstance(value, list) else [value]
        if len(values) > _MAX_FILTER_VALUES:
            raise ValidationError(_("At most %s values.") % _MAX_FILTER_VALUES)
        found = Q(pk__in=[])
        for each in values:
            found |= _filter_condition(self.model, entry, each)
        rows = self.model._base_manager.filter(found)
        with contextlib.suppress(EmptyResultSet):
            str(rows.query)  # Raises what cannot be: a year beyond the calendar.
        if lookup_spawns_duplicates(self.model._meta, entry):
            return Q(pk__in=rows.values("pk"))
        return found

    def _tagged(self, part, value):
        """Return the condition that a record has any of the tags."""
        manager = self.model._meta.get_field(part.name)
        any_case = getattr(settings, "TAGGIT_CASE_INSENSITIVE", False)
        lookup = f"tag__name__{'iexact' if any_case else 'exact'}"
        names = [(lookup, name) for name in _read_tags(manager, value)]
        if not names:
            return Q(pk__in=[])
        any_name = Q.create(names, connector=Q.OR)
        items = part.through._base_manager.filter(any_name, **part.about())
        return Q(pk__in=items.values_list(part.record_pk))

    # Permissions

    def can_create(self, user, record):
        """Return whether the user may create the record, which is not saved yet."""
        return user.is_active

    def can_get(self, user, record):
        """Return whether the user may see the record, wherever it appears."""
        return True

    def can_list(self, user):
        """Return whether the user may list records."""
        return False

    def can_update(self, user, record, modified):
        """Return whether the user may change the record as stored into `modified`, the
        changed, unsaved copy; many-to-many values and tags are on neither."""
        return user.is_active

    def can_delete(self, user, record):
        """Return whether the user may delete the record."""
        return user.is_active

    def _permit(self, hook, action, *records, **modified):
        """Raise AJAXError 403 unless a hook, and Django's permissions if they are
        wanted, allow what Django calls to add, change or delete."""
        if not _call(hook, self.user, *records, **modified):
            raise _forbidden()
        wanted = self.require_permissions
        if _is_user_model(self.model) if wanted is None else wanted:
            opts = self.model._meta
            codename = get_permission_codename(action, opts)
            if not self.user.has_perm(f"{opts.app_label}.{codename}"):
                raise _forbidden()

    # The way of a request

    def find_operation(self):
        """Return the name of the method that the path names.

        Raise AJAXError 404 if there is none, 400 if it needs a record.
        """
        name, found = self.method, _operations(type(self))
        if self.operations is None or name in self.operations:
            if self.command:
                if self._offers_command():
                    return "tags"
            elif found.get(name) and self.pk is None:
                raise AJAXError(400, _("Invalid request for record."))
            elif name in found and found[name] in (None, self.pk is not None):
                return name
        raise AJAXError(404, _("Invalid method."))

    def _offers_command(self):
        """Whether the tags manager and command of the path are there for clients."""
        is_change = _COMMANDS.get(self.command)
        if is_change is None or not isinstance(self._tags_part, _Tags):
            return False
        return self.method in self._writable or not is_change

    def resolve(self):
        """Find the operation, and whether CSRF is checked; return the endpoint."""
        self.operation = self.find_operation()
        exempt = getattr(getattr(self, self.operation), "csrf_exempt", False)
        self.csrf_exempt = self.csrf_exempt or exempt
        return self

    def run(self, request):
        """Run the operation; a custom one on a record only if `can_get` allows."""
        if self.operation not in (*_OPERATIONS, "tags"):
            if self.pk is not None:
                self._asked_record()
        return super().run(request)


class FormEndpoint(_ServedEndpoint):
    """Serves a Django form: validates what is sent, saves it, returns the result."""

    def get_form_kwargs(self, request):
        """Return what else the form is made with, as keywords."""
        return {}

    def create(self, request):
        """Return what `form.save()` returned, else the cleaned data.

        Raise AJAXError 400 with the form's errors.
        """
        model = getattr(getattr(self.model, "_meta", None), "model", None)
        using = router.db_for_write(model) if model else DEFAULT_DB_ALIAS
        with _transaction(using):
            data = _form_data(self.model, request)
            form = self.model(data, request.FILES, **self.get_form_kwargs(request))
            try:
                is_valid = form.is_valid()
            except (ArithmeticError, RecursionError, ValueError):
                # What Django's fields let through: numbers beyond a column, odd base64.
                raise _invalid({NON_FIELD_ERRORS: _invalid_value().messages}) from None
            if not is_valid:
                raise _invalid(form.errors)
            return form.save() if hasattr(form, "save") else form.cleaned_data


def _form_data(form_class, request):
    """Return what a form is given: of a JSON object, the texts a browser would send."""
    if isinstance(request.data, MultiValueDict):
        return request.data
    found = MultiValueDict()
    for key, value in _submitted(request).items():
        if isinstance(form_class.base_fields.get(key), forms.JSONField):
            found[key] = _dumps(value)
        elif value is not None:
            values = value if isinstance(value, list) else [value]
            texts = [each if isinstance(each, str) else _dumps(each) for each in values]
            found.setlist(key, texts)
    return found


# --- Registry -------------------------------------------------------------------------


_SERVED = (models.Model, forms.BaseForm)


class Endpoints(_Registry):
    """The registry of what is served: models and forms, by class and by path."""

    def __init__(self):
        super().__init__()
        self._paths = {}

    def register(self, model, endpoint_class=None):
        """Serve a model or form, or several, by an endpoint class.

        Raise AlreadyRegistered if it, or its path, is taken, ImproperlyConfigured for
        what cannot be served. A swapped model is skipped, as by the admin.
        """
        if isinstance(model, (list, tuple, set)):
            for each in model:
                self.register(each, endpoint_class)
            return
        if not (isinstance(model, type) and issubclass(model, _SERVED)):
            raise ImproperlyConfigured(f"{model!r} is neither a model nor a form.")
        base = FormEndpoint if issubclass(model, forms.BaseForm) else ModelEndpoint
        endpoint_class = endpoint_class or base
        self._check(model, endpoint_class, base)
        if base is ModelEndpoint and model._meta.swapped:
            return
        if model in self._registry:
            raise AlreadyRegistered(f"{_label(model)} is registered already.")
        paths = [(base, *where) for where in _paths_of(model, endpoint_class)]
        for each in paths:
            if each in self._paths:
                where, other = "/".join(each[1:]), _label(self._paths[each])
                raise AlreadyRegistered(
                    f"{_label(model)} and {other} are both at {where}.json."
                )
        self._registry[model] = endpoint_class
        self._paths |= dict.fromkeys(paths, model)
        _kept_plan.cache_clear()

    def unregister(self, model):
        """Serve a model or form no more; raise NotRegistered if it is not served."""
        super().unregister(model)
        self._paths = {k: v for k, v in self._paths.items() if v is not model}

    def find(self, model):
        """Return the endpoint class that speaks for a model."""
        return super().find(model) or ModelEndpoint

    def at(self, base, application, name):
        """Return the model or form at a path and its endpoint class, or two Nones."""
        model = self._paths.get((base, application, name))
        return model, self._registry.get(model)

    def _check(self, model, endpoint_class, base):
        wrong = None
        if not issubclass(endpoint_class, base):
            wrong = f"wants a {base.__name__}, not {endpoint_class.__name__}"
        elif base is ModelEndpoint and model._meta.abstract:
            wrong = "is abstract"
        elif base is ModelEndpoint:
            if isinstance(model._meta.pk, models.CompositePrimaryKey):
                wrong = "has a composite primary key"
        if wrong:
            raise ImproperlyConfigured(f"{_label(model)} {wrong}.")


def _label(model):
    meta = getattr(model, "_meta", None)
    return getattr(meta, "label", f"{model.__module__}.{model.__name__}")


def _paths_of(model, endpoint_class):
    """Return the (application, name) pairs under which a model or form is found."""
    name = model.__name__.lower()
    labels = [model._meta.app_label] if issubclass(model, models.Model) else []
    for each in (model, endpoint_class):
        config = apps.get_containing_app_config(each.__module__)
        if config and each.__module__ != __name__:
            labels.append(config.label)
    if not labels:
        raise ImproperlyConfigured(f"{_label(model)} is of no installed app.")
    return [(label, name) for label in dict.fromkeys(labels)]


endpoint = Endpoints()


def register(*served):
    """Decorate an endpoint class to serve the models or forms given.

    Raise what `endpoint.register` raises.
    """

    def decorate(endpoint_class):
        endpoint.register(served, endpoint_class)
        return endpoint_class

    return decorate


# --- The apps' endpoints.py -----------------------------------------------------------


class _Discovery:
    """The ad-hoc endpoints of all apps, found once, on first use.

    If an endpoints.py fails, both registries are as before, and so is the failure: an
    answer of half of the endpoints would be a wrong one.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.is_started = False
        self.error = None
        self.functions = {}

    def run(self):
        """Import every app's endpoints.py; raise ImproperlyConfigured if one fails."""
        with self.lock:  # Others wait; what is imported may ask again.
            if not self.is_started:
                self.is_started = True
                self._import_all()
        if self.error:
            message = f"{self.error[0]} cannot be imported: {self.error[1]!r}"
            raise ImproperlyConfigured(message) from self.error[1]

    def _import_all(self):
        registries = (endpoint, encoder)
        before = [{k: copy.copy(v) for k, v in vars(r).items()} for r in registries]
        try:
            for config in apps.get_app_configs():
                where = f"{config.name}.endpoints"
                self.functions |= _import_endpoints(config)
        except BaseException as error:
            self.error = (where, error)
            self.functions = {}
            for registry, state in zip(registries, before, strict=True):
                vars(registry).update(state)
            _kept_plan.cache_clear()
            if not isinstance(error, Exception):
                raise


def _import_endpoints(config):
    """Import an app's endpoints.py; return its ad-hoc endpoints by (label, name)."""
    if not module_has_submodule(config.module, "endpoints"):
        return {}
    module = import_module(f"{config.name}.endpoints")
    if module is sys.modules[__name__]:
        return {}
    offered = getattr(module, "__all__", None)
    if offered is None:
        offered = [n for n, v in vars(module).items() if _is_endpoint(v, module)]
    found = {name: getattr(module, name) for name in offered if name[0] != "_"}
    return {
        (config.label, name): _Function(value)
        for name, value in found.items()
        if callable(value) and not isinstance(value, type)
    }


def _is_endpoint(value, module):
    """Whether a value is an endpoint object made in a module, or a function of a
    request defined in it."""
    if getattr(value, "__module__", None) != module.__name__ or not callable(value):
        return False
    inner = inspect.unwrap(value)
    if inspect.isfunction(inner):
        return _takes_request(value)
    return isinstance(inner, BaseEndpoint)


_discovery = _Discovery()


def autodiscover():
    """Import every installed app's endpoints.py, once; others wait until it is done.

    Raise ImproperlyConfigured, now and ever after, if one of them fails.
    """
    _discovery.run()


# --- Dispatch -------------------------------------------------------------------------


class _CsrfCheck(CsrfViewMiddleware):
    """Django's check, run by the view itself, so that its refusal can be JSON.

    `_reject` is private; it is where Django turns a reason into an HTML page.
    """

    def _reject(self, request, reason):
        return reason


def _check_csrf(request, view):
    """Raise AJAXError 403 with Django's reason unless the request carries its token."""
    check = _CsrfCheck(dispatch)
    if "CSRF_COOKIE" not in request.META:
        check.process_request(request)
    reason = check.process_view(request, view, (), {})
    if reason:
        how = _(
            "%(reason)s Send the token, from the cookie %(cookie)s or a page's "
            "csrfmiddlewaretoken, in the header %(header)s."
        )
        header = settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-")
        header = header.title()
        names = {"cookie": settings.CSRF_COOKIE_NAME, "header": header}
        raise AJAXError(403, how % {"reason": reason, **names}, csrf=True)


def _keep_csrf_cookie(request, response):
    """Send a token that changed meanwhile, as by a login, if no middleware will."""
    if request.META.get("CSRF_COOKIE_NEEDS_UPDATE"):
        return _CsrfCheck(dispatch).process_response(request, response)
    return response


def _check_request(request):
    """Raise AJAXError 405 unless it is a POST, 400 if its headers make no sense."""
    if request.method != "POST":
        raise AJAXError(405, _("Send a POST request, its parameters in the body."))
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or len(length) > 18:
        raise AJAXError(400, _("The Content-Length is not a number."))
    # Of the codecs that Python knows some are not for text, some take for ever.
    if (request.encoding or "utf-8").lower() != "utf-8":
        raise AJAXError(400, _("Send UTF-8, as browsers do."))


def _resolve_path(
    app, name=None, model=None, pk=None, operation=None, tags=None, command=None
):
    """Return the endpoint at a path; raise AJAXError 404 if there is none."""
    autodiscover()
    function = _discovery.functions.get((app, name))
    if function is not None:
        return function
    served, endpoint_class = endpoint.at(FormEndpoint, app, name)
    if served is None:
        served, endpoint_class = endpoint.at(ModelEndpoint, app, name or model)
    if served is None:
        raise AJAXError(404, _("AJAX endpoint does not exist."))
    method = tags or operation or "create"
    return endpoint_class(app, served, method, pk, command).resolve()


@csrf_exempt
@login_not_required
def dispatch(request, **segments):
    """Answer a request: resolve its path, check CSRF, authorize, run, respond."""
    try:
        _check_request(request)
        found = _resolve_path(**segments)
        _check_csrf(request, found)
        found.authorize(request)
        _read_body(request)
        reads = getattr(found, "operation", None) in ("get", "list")
        with _atomic_requests(found, not reads):
            response = _success_response(found.run(request), request)
    except Exception as error:
        response = _error_response(request, error)
    return _keep_csrf_cookie(request, response)


dispatch._non_atomic_requests = _EveryAlias()


@csrf_exempt
@login_not_required
@json_response
def not_found(request):
    """Answer a path below the mount that is nothing's, as JSON."""
    autodiscover()
    raise AJAXError(404, _("AJAX endpoint does not exist."))


urlpatterns = [
    path("<str:app>/<str:name>.json", dispatch, name="endpoint"),
    path("<str:app>/<str:model>/<str:operation>.json", dispatch, name="model"),
    path(
        "<str:app>/<str:model>/<str:pk>/<str:operation>.json", dispatch, name="record"
    ),
    path(
        "<str:app>/<str:model>/<str:pk>/<str:tags>/<str:command>.json",
        dispatch,
        name="tags",
    ),
    re_path(r"^[\s\S]*\.json\Z", not_found, name="not_found"),
]


# --- Checks and AppConfig -------------------------------------------------------------


def _check_discovery():
    """E001: an endpoints.py that fails to import."""
    try:
        autodiscover()
    except ImproperlyConfigured as error:
        hint = "Until it is mended, every request is answered with status 500."
        yield checks.Error(str(error), hint, id="ajax.E001")


def _tags_managers(model):
    return [name for name, f in _model_fields(model).items() if _is_tags_manager(f)]


def _is_lookup(model, name):
    """Whether a name is one for `filter()`: the database is not asked."""
    try:
        model._base_manager.filter((name, None))
    except FieldError:
        return False
    except (TypeError, ValueError, ValidationError):
        pass  # There is such a lookup, but not for this value.
    return True


def _is_order(model, name):
    is_text = isinstance(name, str) and name != "?"
    return not is_text or _is_lookup(model, name.lstrip("-"))


def _is_search(model, name):
    return _is_lookup(model, name.lstrip("^=@"))


def _is_filter(model, name):
    if not _is_lookup(model, name):
        return False
    return not {*_end_of_path(model, name)[1]} & {*_NOT_OFFERED}


def _is_sortable(model, name):
    from django.contrib.admin.utils import lookup_spawns_duplicates

    return _is_lookup(model, name) and not lookup_spawns_duplicates(model._meta, name)


def _is_expandable(model, name):
    field, rest = _end_of_path(model, name)
    return isinstance(field, models.ForeignKey) and not rest


def _unknown_names(model, endpoint_class):
    """Yield (attribute, name) of what class attributes name and is not there."""
    fields = {*_model_fields(model), *_pk_names(model)}
    operations = {*_tags_managers(model), *_operations(endpoint_class)}

    def is_shown(model, name):
        return name in fields or _adds(endpoint_class, name) or hasattr(model, name)

    for attribute, is_known in (
        ("fields", is_shown),
        ("exclude", is_shown),
        ("readonly_fields", is_shown),
        ("immutable_fields", is_shown),
        ("expand", _is_expandable),
        ("ordering", _is_order),
        ("sortable_by", _is_sortable),
        ("search_fields", _is_search),
        ("list_filter", _is_filter),
        ("operations", lambda model, name: name in operations),
    ):
        names = getattr(endpoint_class, attribute) or ()
        if isinstance(names, str) and names != "__all__":
            yield attribute, names  # Text in the place of a list.
        elif not isinstance(names, (bool, int, str)):
            unknown = (name for name in names if not is_known(model, name))
            yield from ((attribute, name) for name in unknown)


def _check_names(model, endpoint_class):
    """E002: class attributes that name what is not there."""
    for attribute, name in _unknown_names(model, endpoint_class):
        what = f"{endpoint_class.__name__}.{attribute} names {name!r}"
        yield checks.Error(
            f"{what}, which {model._meta.label} does not have.",
            "Correct the name, or take it out.",
            endpoint_class,
            "ajax.E002",
        )


def _check_hidden_create(model, endpoint_class):
    """E003: an ad-hoc endpoint or form in the place where a model's create would be."""
    forms_at = {key[1:] for key in endpoint._paths if key[0] is FormEndpoint}
    hiding = _discovery.functions.keys() | forms_at
    if "create" in (endpoint_class.operations or ("create",)):
        for where in hiding.intersection(_paths_of(model, endpoint_class)):
            path = "/".join(where)
            yield checks.Error(
                f"What is at {path}.json hides the create of {model._meta.label}.",
                "Rename the ad-hoc endpoint or form, or leave it out of __all__.",
                endpoint_class,
                "ajax.E003",
            )


def _check_copies():
    """E004: a second copy of this file, with registries of its own."""
    this = sys.modules[__name__]
    for name, module in sorted(sys.modules.items()):
        found = getattr(module, "__dict__", {})
        is_other = module is not this and found.get("__name__") == name != "__main__"
        if is_other and "AjaxConfig" in found and "ModelEndpoint" in found:
            hint = f"Import it as {__name__}: each copy has its own registry."
            text = f"{__name__} is also imported as {name}."
            yield checks.Error(text, hint, id="ajax.E004")


def _shown_by_expansion(plan):
    for part in plan.parts:
        if isinstance(part, (_Joined, _Fetched)):
            yield part.plan.model
            yield from _shown_by_expansion(part.plan)


def _check_expansions(model, endpoint_class):
    """W001: a model shown whole by expansion, though nobody said what it may show."""
    shown = _shown_by_expansion(_Plan(model, endpoint_class, True))
    for each in dict.fromkeys(shown):
        is_said = encoder.find(each) or endpoint.find(each) is not ModelEndpoint
        if not (is_said or _is_user_model(each)):
            what = f"{endpoint_class.__name__} of {model._meta.label}"
            yield checks.Warning(
                f"{what} shows {each._meta.label} whole.",
                'Register an endpoint (fields = "__all__" says yes, all) or an '
                f"encoder for {each.__name__}, or leave it out of `expand`.",
                endpoint_class,
                "ajax.W001",
            )


def _check_totals(model, endpoint_class):
    """W003: records that can_get hides, but that still count in `total`."""
    offered = endpoint_class.operations
    lists = offered is None or {"list", *_tags_managers(model)} & {*offered}
    overrides = functools.partial(_overrides, endpoint_class)
    if lists and overrides("can_get") and not overrides("get_queryset"):
        yield checks.Warning(
            f"{endpoint_class.__name__} overrides can_get, not get_queryset: what it "
            "refuses still shows in totals, of searches and filters too.",
            "Leave them out in get_queryset, or `list` out of operations.",
            endpoint_class,
            "ajax.W003",
        )


def check_ajax(app_configs=None, **kwargs):
    """Return what Django's system checks have to say about the project's endpoints."""
    found = [*_check_discovery(), *_check_copies()]
    served = [] if _discovery.error else endpoint._registry.items()
    served = [each for each in served if issubclass(each[1], ModelEndpoint)]
    misnamed = [error for each in served for error in _check_names(*each)]
    for each in served:
        found += [*_check_hidden_create(*each), *_check_totals(*each)]
        # No plan can be made of names that are not there.
        found += [] if misnamed else _check_expansions(*each)
    return found + misnamed


class AjaxConfig(AppConfig):
    """The app, for those who list it in INSTALLED_APPS: it adds the system checks."""

    name = __name__
    verbose_name = "ajax"

    def ready(self):
        checks.register(check_ajax)


# --- The old package's import paths ---------------------------------------------------

#: An app of one file has no folder, so it claims no templates, static files or
#: commands.
__path__ = [__file__]

if __name__ != "__main__":
    # As os.path does it: `from ajax.exceptions import AJAXError` is this module again.
    # Django finds AjaxConfig through `.apps`; there is no `.models`, for there are
    # none.
    sys.modules[f"{__name__}.apps"] = sys.modules[__name__]
    for _name in (
        "authentication decorators encoders endpoints exceptions signals urls views"
    ).split():
        globals()[_name] = sys.modules[f"{__name__}.{_name}"] = sys.modules[__name__]


# --- Demo -----------------------------------------------------------------------------

#: An app as anybody would write it; the demo runs it from a temporary folder.
_DEMO = {
    "__init__.py": "",
    "models.py": """
from django.apps import apps
from django.contrib.auth.models import User
from django.db import models


class Category(models.Model):
    title = models.CharField(max_length=100)


class Post(models.Model):
    category = models.ForeignKey(Category, models.CASCADE)
    author = models.ForeignKey(User, models.CASCADE)
    title = models.CharField(max_length=200)
    created = models.DateTimeField(auto_now_add=True)
    liked_by = models.ManyToManyField(User, related_name="likes", blank=True)
    if apps.is_installed("taggit"):
        from taggit.managers import TaggableManager

        tags = TaggableManager(blank=True)
""",
    "endpoints.py": """
import {ajax} as ajax
from demo.models import Category, Post


def whoami(request):
    return {"username": request.user.username}


@ajax.register(Category)
class CategoryEndpoint(ajax.ModelEndpoint):
    def can_list(self, user):
        return True


@ajax.register(Post)
class PostEndpoint(CategoryEndpoint):
    readonly_fields = ["author"]
    search_fields = ["title"]
    sortable_by = ["title", "created"]
    list_filter = ["category"]

    def prepare_record(self, request, record, created):
        if created:
            record.author = request.user
""",
    "urls.py": """
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.urls import include, path
from {ajax} import _DEMO_PAGE


def log_in(get_response):
    def logged_in(request):
        request.user = User.objects.get(username="demo")
        return get_response(request)

    return logged_in


def index(request):
    return HttpResponse(_DEMO_PAGE.replace("%s", get_token(request)))


urlpatterns = [path("", index), path("ajax/", include("{ajax}"))]
""",
    "data.py": """
from django.apps import apps
from django.contrib.auth.models import User
from demo.models import Category, Post

demo = User.objects.create(username="demo")
for number, title in enumerate(["Ten minutes of work", "Tags without tears"]):
    category = Category.objects.create(title=["News", "How to"][number])
    post = Post.objects.create(category=category, author=demo, title=title)
    post.liked_by.add(demo)
    if apps.is_installed("taggit"):
        post.tags.add("django", ["ajax", "json"][number])
""",
}

_DEMO_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>ajax.py demo</title>
<style>
  :root { color-scheme: light dark }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto;
         padding: 0 1rem }
  input { font: inherit; width: 100%; box-sizing: border-box; padding: .4rem }
  button { font: inherit; margin: .5rem 0; padding: .4rem 1rem }
  pre { overflow: auto; padding: 1rem; border: 1px solid; border-radius: .3rem }
</style>
<h1>ajax.py demo</h1>
<p>You are logged in as <b>demo</b>. Paths to try: demo/post/list, demo/post/1/get,
demo/post/1/tags/similar, demo/category/list, demo/whoami.</p>
<form><input type="hidden" name="csrfmiddlewaretoken" value="%s">
  <label>Path <input name="path" value="demo/post/1/get"></label>
  <label>Body, JSON <input name="body" value="{}"></label>
  <button>Call</button>
</form>
<pre aria-live="polite"></pre>
<script>
  document.forms[0].onsubmit = async event => {
    event.preventDefault();
    const {path, body, csrfmiddlewaretoken} = event.target.elements;
    const response = await fetch(`/ajax/${path.value}.json`, {
      method: "POST", body: body.value,
      headers: {"Content-Type": "application/json",
                "X-CSRFToken": csrfmiddlewaretoken.value},
    });
    document.querySelector("pre").textContent =
      response.status + " " + JSON.stringify(await response.json(), null, 2);
  };
  document.forms[0].requestSubmit();
</script>
"""


def _write_demo(folder):
    """Write the demo's app into a folder that Python imports from."""
    app = pathlib.Path(folder, "demo")
    app.mkdir()
    for name, text in _DEMO.items():
        (app / name).write_text(text.replace("{ajax}", __name__), encoding="utf-8")
    sys.path.insert(0, folder)


def _demo_settings(folder):
    from django.utils.crypto import get_random_string

    taggit = ["taggit"] if importlib.util.find_spec("taggit") else []
    auth = ["django.contrib.contenttypes", "django.contrib.auth"]
    return {
        "DEBUG": True,
        "SECRET_KEY": get_random_string(50),
        "ALLOWED_HOSTS": ["127.0.0.1", "localhost", "[::1]"],
        "ROOT_URLCONF": "demo.urls",
        "USE_TZ": True,
        "MIDDLEWARE": ["django.middleware.csrf.CsrfViewMiddleware", "demo.urls.log_in"],
        "INSTALLED_APPS": [*auth, *taggit, __name__, "demo"],
        "DATABASES": {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": pathlib.Path(folder, "demo.sqlite3"),
            }
        },
    }


def main(argv=None):
    """Serve the demo on 127.0.0.1, port 8000 or the one that is given, until Ctrl-C."""
    import tempfile

    import django
    from django.core.management import call_command

    port = [*(sys.argv[1:] if argv is None else argv), "8000"][0]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        _write_demo(folder)
        settings.configure(**_demo_settings(folder))
        django.setup()
        call_command("migrate", run_syncdb=True, verbosity=0)
        import_module("demo.data")
        send = f"curl -b csrftoken={'x' * 32} -H X-CSRFToken:{'x' * 32} -d ''"
        print(f"{send} http://127.0.0.1:{port}/ajax/demo/post/1/get.json", flush=True)
        call_command("runserver", f"127.0.0.1:{port}", use_reloader=False)


if __name__ == "__main__":
    # By its real name: as __main__ it would be a second copy, with its own registries.
    sys.exit(import_module(__spec__.name if __spec__ else "ajax").main())
