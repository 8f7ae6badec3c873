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
import binascii
import codecs
import contextlib
import contextvars
import copy
import datetime
import decimal
import difflib
import enum
import functools
import importlib.machinery
import importlib.util
import inspect
import itertools
import json
import math
import operator
import re
import sys
import threading
import traceback
import uuid
from collections.abc import Iterable, Mapping
from importlib import import_module
from json.encoder import encode_basestring_ascii

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
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
from django.db.models.fields.files import FieldFile, ImageFieldFile
from django.db.models.functions import Cast
from django.dispatch import Signal
from django.forms.utils import from_current_timezone
from django.http import Http404, HttpResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, path, re_path
from django.utils import timezone
from django.utils.datastructures import MultiValueDict
from django.utils.duration import duration_iso_string
from django.utils.functional import Promise, cached_property
from django.utils.html import escape
from django.utils.log import log_response
from django.utils.module_loading import import_string, module_has_submodule
from django.utils.text import smart_split, unescape_string_literal
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
_MAX_INTEGER_DIGITS = 1000
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
    value = int(value)
    return value if abs(value) <= _MAX_SAFE_INTEGER else str(value)


#: How a value that JSON does not know is given, first match wins.
_CONVERSIONS = (
    (enum.Enum, lambda value: _plain(value.value)),
    (int, _integer),
    (float, lambda value: value if math.isfinite(value) else None),
    (datetime.datetime, _iso),
    ((datetime.date, datetime.time), lambda value: value.isoformat()),
    (datetime.timedelta, duration_iso_string),
    (decimal.Decimal, lambda value: str(value) if value.is_finite() else None),
    ((uuid.UUID, Promise), str),
    ((bytes, bytearray, memoryview), lambda v: base64.b64encode(v).decode("ascii")),
    (FieldFile, _file_url),
    (File, lambda value: value.name),
)


def _plain(value, request=None):
    """Return what an endpoint gave as dicts, lists and scalars that JSON knows.

    With a request, records are as its user may see them. Raise TypeError for what
    cannot be encoded.
    """
    if value is None or type(value) in (bool, str):
        return value
    for kinds, convert in _CONVERSIONS:
        if isinstance(value, kinds):
            return convert(value)
    if isinstance(value, str):
        return str(value)
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
    if isinstance(key, str):
        return str(key)
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


#: Plain data as JSON text; ASCII, so that no lone surrogate can break the answer.
_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


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
            return _json_response(_listed(before, result.texts, after))
        result = result.data
    return _json_response(f"{before}{_dumps(_plain(result, request))}{after}")


def _listed(before, texts, after):
    """Return JSON texts as a list between two others, without a copy of a long list."""
    if not texts:
        return f"{before}[]{after}"
    texts = [f"{before}[{texts[0]}", *texts[1:]]
    texts[-1] = f"{texts[-1]}]{after}"
    return ",".join(texts)


# --- Column values as JSON text -------------------------------------------------------

_WORDS = {True: "true", False: "false"}


def _write_any(value):
    return _dumps(_plain(value))


def _write_escaped(value):
    return _dumps(_escaped(_plain(value)))


def _write_json_escaped(value):
    return _dumps(_escaped(value))


def _write_integer(value):
    if -_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER:
        return int.__repr__(value)
    return f'"{int.__repr__(value)}"'


def _write_float(value):
    return float.__repr__(value) if math.isfinite(value) else "null"


def _write_date(value):
    return f'"{_iso(value)}"'


def _write_number(value):
    return f'"{value}"' if value.is_finite() else "null"


def _file_writer(field, html_escape):
    write = _write_escaped if html_escape else _dumps

    def write_file(value):
        if not isinstance(value, FieldFile):
            value = field.attr_class(None, field, value)
        return write(_file_url(value))

    return write_file


#: The quick way to write what such a field holds; everything else goes through _plain.
_WRITERS = (
    (models.BooleanField, _WORDS.__getitem__),
    (models.IntegerField, _write_integer),
    (models.FloatField, _write_float),
    (models.DecimalField, _write_number),
    ((models.DateField, models.TimeField), _write_date),
)
_TEXT_FIELDS = (models.CharField, models.TextField)


def _writer(field, html_escape):
    """Return the function that writes a value of the field, not None, as JSON text."""
    write_text = _write_escaped if html_escape else encode_basestring_ascii
    if isinstance(field, models.ForeignKey):
        return _writer(field.target_field, html_escape)
    if isinstance(field, models.FileField):
        return _file_writer(field, html_escape)
    if isinstance(field, models.JSONField):
        return _write_json_escaped if html_escape else _dumps
    if not hasattr(field, "from_db_value"):
        if isinstance(field, _TEXT_FIELDS):
            return write_text
        for kinds, write in _WRITERS:
            if isinstance(field, kinds):
                return write
    return _write_escaped if html_escape else _write_any


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
    """Return an `expand` attribute as (levels, names to expand or None for all)."""
    if expand is True:
        return _MAX_EXPANSION, None
    if isinstance(expand, int):
        return int(expand), None
    tree = {}
    for name in expand:
        branch = tree
        for part in name.split(LOOKUP_SEP):
            branch = branch.setdefault(part, {})
    return _MAX_EXPANSION, tree


def _overrides(endpoint_class, hook):
    return getattr(endpoint_class, hook) is not getattr(ModelEndpoint, hook)


@functools.cache
def _adds_only(queryset_class):
    """Whether a QuerySet class adds methods, but changes none of Django's."""
    own = set()
    for base in queryset_class.__mro__[: queryset_class.__mro__.index(models.QuerySet)]:
        own |= {name for name in vars(base) if name not in ("__doc__", "__module__")}
    return not own & set(dir(models.QuerySet)) - {"__qualname__", "__firstlineno__"}


def _is_filtered(model):
    """Whether the default manager decides by itself which records there are."""
    manager = type(model._default_manager)
    return (manager.get_queryset, manager.all) != (
        models.Manager.get_queryset,
        models.Manager.all,
    )


def _needs_instances(model):
    """Whether making instances of a model can be noticed by anybody's code."""
    fields = model._meta.concrete_fields
    descriptors = (type(inspect.getattr_static(model, f.attname)) for f in fields)
    return (
        model.__init__ is not models.Model.__init__
        or model.from_db.__func__ is not models.Model.from_db.__func__
        or not all(each.__module__.startswith("django.") for each in descriptors)
        or any(
            getattr(field, "attr_class", FieldFile) not in (FieldFile, ImageFieldFile)
            for field in fields
        )
    )


class _Batch:
    """The records of one model that are written together.

    `columns` are their values, in the order of the plan's lookups; `records` are the
    instances where somebody needs them, else None; `found` is what was fetched beside.
    """

    def __init__(self, columns, records, using, request, endpoint=None, converters=()):
        self.columns = columns
        self.records = records
        self.using = using
        self.request = request
        self.endpoint = endpoint
        self.converters = dict(converters)
        self.found = {}

    def column(self, position):
        """Return the values at a position, as their field has them."""
        values = self.columns[position]
        if position in self.converters:
            convert, expression = self.converters.pop(position)
            connection = connections[self.using]
            for each in convert:
                values = [each(value, expression, connection) for value in values]
            self.columns[position] = values
        return values

    def converted(self):
        """Return all columns, as their fields have them."""
        return [self.column(position) for position in range(len(self.columns))]

    @cached_property
    def pks(self):
        return self.column(0) if self.columns else ()

    def joined(self, start, stop):
        """Return the batch of the distinct records that some of the columns join, and
        which of them each record here has."""
        columns = self.columns[start:stop]
        keys = columns[0]
        rows = dict(zip(keys, zip(*columns, strict=True), strict=True))
        rows.pop(None, None)
        found = _Batch(
            list(zip(*rows.values(), strict=True)), None, self.using, self.request
        )
        found.converters = {
            position - start: each
            for position, each in self.converters.items()
            if start <= position < stop
        }
        return found, list(rows), keys


class _Statement:
    """A query as SQL whose rows are given as the database has them.

    Django puts a query into SQL each time, which is half of the time of reading one
    record, and converts every value of every row while it reads. Here the text is kept
    while only the parameters change; columns are converted at once, and of a related
    record that many rows share, once. That wants the query's compiler, which is private
    API, used only here.
    """

    def __init__(self, queryset):
        """Put a values_list() into SQL; raise EmptyResultSet if it can have no rows."""
        self.using = queryset.db
        compiler = queryset.query.get_compiler(self.using)
        self.sql, self.parameters = compiler.as_sql()
        selected = [each[0] for each in compiler.select]
        converted = compiler.get_converters(selected)
        self.expressions = {position: selected[position] for position in converted}

    def load(self, request=None, endpoint=None, parameters=None, limits=None):
        """Run it, between limits or whole; return the rows as a _Batch."""
        connection = connections[self.using]
        sql = self.sql
        if limits:
            sql = f"{sql} {connection.ops.limit_offset_sql(*limits)}"
        with connection.cursor() as cursor:
            cursor.execute(sql, self.parameters if parameters is None else parameters)
            columns = list(zip(*cursor.fetchall(), strict=True))
        convert = connection.ops.get_db_converters
        converters = {
            position: (convert(each) + each.get_db_converters(connection), each)
            for position, each in self.expressions.items()
        }
        return _Batch(columns, None, self.using, request, endpoint, converters)


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


class _KeptStatements:
    """The statements of a query whose only parameters are those of some equal fields.

    One per database, so they grow with nothing that a client sends.
    """

    def __init__(self, queryset, **fields):
        self.queryset = queryset
        self.fields = fields
        self.kept = {}

    def load(self, using, values=(), **options):
        """Run the query with the values that its fields are to equal."""
        if using not in self.kept:
            queryset = self.queryset.using(using)
            for name, value in zip(self.fields, values, strict=True):
                queryset = queryset.filter(**{name: value})
            try:
                made = _Statement(queryset)
            except EmptyResultSet:
                # A value beyond the column; another may not be.
                return _Batch([], None, using, options.get("request"))
            if len(made.parameters) != len(values):
                # A value that stands in the text: a boolean, an empty string on Oracle.
                return made.load(**options)
            self.kept[using] = made
        connection = connections[using]
        parameters = [
            field.get_db_prep_value(value, connection)
            for field, value in zip(self.fields.values(), values, strict=True)
        ]
        return self.kept[using].load(parameters=parameters, **options)


def _filled_in(name):
    """Return the getter of what the database fills in, None until it has."""

    def get(record):
        value = getattr(record, name, None)
        return None if hasattr(value, "resolve_expression") else value

    return get


class _Column:
    """A key whose value stands in a column of the model's own table."""

    joins = ()

    def __init__(self, plan, name, field):
        self.name = name
        self.write = _writer(field, plan.html_escape)
        self.fallback = _write_escaped if plan.html_escape else _write_any
        is_filled_in = field.generated or field.has_db_default()
        getter = _filled_in(field.attname) if is_filled_in else field.attname
        self.position = plan.add_lookup(name, getter)

    def texts(self, batch):
        return self.write_all(batch.column(self.position))

    def write_all(self, values):
        """Return each value as JSON text.

        An instance may hold what its field has not cleaned yet: such a column is
        written value by value, for what it is.
        """
        write = self.write
        try:
            return ["null" if value is None else write(value) for value in values]
        except (AttributeError, KeyError, TypeError, ValueError):
            return [self.fallback(value) for value in values]


class _Key(_Column):
    """A foreign key given as the pk of what it refers to.

    One that refers to another field than the pk joins for it, or looks it up.
    """

    def __init__(self, plan, field):
        self.name = field.name
        self.field = field
        self.target = field.target_field
        related = field.remote_field.model
        self.write = _writer(related._meta.pk, plan.html_escape)
        self.fallback = _write_any
        self.rows = None
        lookup = getter = field.attname
        if not self.target.primary_key and plan._joins(field):
            self.joins = (field.name,)
            lookup, getter = f"{field.name}{LOOKUP_SEP}pk", self.related_pk
        elif not self.target.primary_key:
            self.rows = related._base_manager.values_list(self.target.attname, "pk")
            self.is_near = plan._is_near(related)
        self.position = plan.add_lookup(lookup, getter)

    def related_pk(self, record):
        related = self.field.get_cached_value(record, default=None)
        return None if related is None else related.pk

    def pks(self, batch):
        """Return for each record the pk of what it refers to."""
        keys = batch.column(self.position)
        if self.rows is None:
            return keys
        if self not in batch.found:
            wanted = {f"{self.target.name}__in": {*keys} - {None}}
            using = batch.using if self.is_near else self.rows.db
            batch.found[self] = dict(self.rows.using(using).filter(**wanted))
        return [batch.found[self].get(key) for key in keys]

    def texts(self, batch):
        return self.write_all(self.pks(batch))


class _Joined:
    """A foreign key shown as the whole record, read by a join."""

    def __init__(self, plan, field, related):
        self.name = field.name
        self.field = field
        self.plan = related
        self.joins = (
            field.name,
            *(f"{field.name}{LOOKUP_SEP}{join}" for join in related.joins),
        )

    def texts(self, batch):
        if batch.records is None:
            return self.from_columns(batch)
        cached = self.field.get_cached_value
        related = [cached(record, default=None) for record in batch.records]
        keys = [None if each is None else each.pk or id(each) for each in related]
        distinct = dict(zip(keys, related, strict=True))
        distinct.pop(None, None)
        written = self.plan.write_related([*distinct.values()], batch)
        texts = dict(zip(distinct, written, strict=True))
        return [texts.get(key, "null") for key in keys]

    def from_columns(self, batch):
        """Write each distinct related record once, out of the joined columns."""
        related, distinct, keys = batch.joined(
            self.start, self.start + len(self.plan.lookups)
        )
        texts = dict(zip(distinct, self.plan.write(related), strict=True))
        return [texts.get(key, "null") for key in keys]


class _Fetched:
    """A foreign key shown as the whole record, read by a query of its own.

    So are models whose endpoint or manager says which records there are, keys that no
    database constraint guards (an inner join would lose the row), and what is beyond
    the joins a database can do. Keys to one model that are expanded alike share the
    query.
    """

    def __init__(self, plan, field, source):
        self.name = field.name
        self.key = _Key(plan, field)
        self.joins = self.key.joins
        self.source = source
        source.keys.append(self.key)

    def texts(self, batch):
        keys = self.key.pks(batch)
        found = self.source.texts(batch)
        if self.source.plan.is_restricted:
            # What is outside may exist: its pk is all that is shown of it.
            missing = [key for key in keys if key not in found]
            found = found | dict(zip(missing, self.key.write_all(missing), strict=True))
        return [found.get(key, "null") for key in keys]


class _Source:
    """The query that _Fetched relations of one batch share; its plan is made on use."""

    def __init__(self, make_plan, is_near):
        self.make_plan = make_plan
        self.is_near = is_near
        self.keys = []

    @cached_property
    def plan(self):
        return self.make_plan()

    def texts(self, batch):
        if self not in batch.found:
            keys = {key for each in self.keys for key in each.pks(batch)}
            using = batch.using if self.is_near else None
            batch.found[self] = self.plan.fetch(keys - {None}, batch.request, using)
        return batch.found[self]


class _Members:
    """A many-to-many relation, given as a list of pks."""

    joins = ()

    def __init__(self, plan, field):
        self.name = field.name
        self.write = _writer(field.remote_field.model._meta.pk, plan.html_escape)
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
            members[pk][member] = self.write(member)
        return [f"[{','.join(members[pk].values())}]" for pk in pks]


class _Tags:
    """The tags of a TaggableManager, as a list of {"pk", "name", "slug"}.

    Read from the through table: taggit's own prefetch builds a queryset for every row.
    """

    joins = ()

    def __init__(self, plan, field):
        from taggit.models import CommonGenericTaggedItemBase

        self.name = field.name
        self.model = plan.model
        self.through = field.through
        self.is_generic = issubclass(self.through, CommonGenericTaggedItemBase)
        self.key = "object_id" if self.is_generic else "content_object_id"
        self.write = _write_escaped if plan.html_escape else _dumps
        columns = (self.key, "tag_id", "tag__name", "tag__slug")
        self.rows = self.through._base_manager.values_list("pk", *columns)
        self.is_ordered = bool(field.ordering)
        for name in field.ordering or ():
            sign = "-" * name.startswith("-")
            name = f"{sign}tag{LOOKUP_SEP}{name.removeprefix('-')}"
            self.rows = self.rows.order_by(*self.rows.query.order_by, name)
        keys = ("content_type",) * self.is_generic + (self.key,)
        fields = {name: self.through._meta.get_field(name) for name in keys}
        self.of_one = _KeptStatements(self.rows, **fields)
        self.clean = fields[self.key].to_python
        # Text in a generic key, as taggit documents it, is not compared with a number.
        root, key = _root_key(plan.model), fields[self.key]
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

    def read(self, pks, using):
        """Return the rows of the through table for some records, in order."""
        if not pks:
            return ()
        about = self.about()
        if len(pks) == 1:
            values = [*(kind.pk for kind in about.values()), *pks]
            found = self.of_one.load(using, values)
        else:
            keys = {f"{self.key}__in": pks}
            found = _Statement(self.rows.using(using).filter(**about, **keys)).load()
        rows = zip(*found.converted(), strict=True)
        # Sorted here: asked to sort by the through table's pk, SQLite reads all of it.
        return rows if self.is_ordered else sorted(rows)

    def texts(self, batch):
        pks = [self.clean(pk) for pk in batch.pks]
        tags = {pk: [] for pk in pks}
        known = {}
        for _through, pk, tag, name, slug in self.read({*pks} - {None}, batch.using):
            if tag not in known:
                known[tag] = self.write({"pk": tag, "name": name, "slug": slug})
            tags[pk].append(known[tag])
        return [f"[{','.join(tags[pk])}]" for pk in pks]


def _adds(endpoint_class, name):
    """Whether a name is an endpoint class's own: `user` may be the model's property."""
    return hasattr(endpoint_class, name) and not hasattr(ModelEndpoint, name)


class _Extra:
    """A property or method of the endpoint or the model that `fields` names."""

    joins = ()

    def __init__(self, plan, name):
        self.name = name
        self.of_endpoint = _adds(plan.endpoint_class, name)
        if not self.of_endpoint and not hasattr(plan.model, name):
            raise ImproperlyConfigured(
                f"{plan.endpoint_class.__name__}.fields names {name!r}, which neither "
                f"the endpoint nor {plan.model._meta.label} has."
            )
        self.write = _write_escaped if plan.html_escape else _write_any

    def texts(self, batch):
        return [self.write(self.value(record, batch)) for record in batch.records]

    def value(self, record, batch):
        if self.of_endpoint:
            value = getattr(batch.endpoint, self.name)
            return value(record) if callable(value) else value
        value = getattr(record, self.name)
        return value() if callable(value) else value


class _Plan:
    """How one model is read, joined and written as JSON at one place of an answer.

    `parts` each write one key for all records of a batch; `lookups` are the columns
    they want, for `values_list()`, and `getters` read the same off an instance; `joins`
    are the relations to select. Rows are read as tuples unless somebody's code needs
    instances.
    """

    def __init__(
        self, model, endpoint_class, *, chosen, has_user, html_escape, levels=None,
        ancestors=(), budget=None,
    ):  # fmt: skip
        self.model = model
        self.endpoint_class = endpoint_class
        self.encoder = chosen
        self.has_user = has_user
        self.html_escape = html_escape or getattr(chosen, "html_escape", False)
        self.levels = levels or _levels(endpoint_class.expand)
        self.ancestors = (*ancestors, model._meta.concrete_model)
        self.budget = budget or [_MAX_JOINS]
        self.asks = has_user and _overrides(endpoint_class, "can_get")
        self.own_queryset = _overrides(endpoint_class, "get_queryset")
        self.is_restricted = self.own_queryset or self.asks or _is_filtered(model)
        self.is_custom = chosen is not None and chosen.is_custom
        self.lookups, self.getters, self.sources = [], [], {}
        self.parts = [_Column(self, "pk", model._meta.pk)]
        names = _shown(model, endpoint_class, chosen)
        fields = _model_fields(model)
        self.parts += [self._part(name, fields.get(name)) for name in names]
        self._finish()

    def _finish(self):
        joined = [part for part in self.parts if isinstance(part, _Joined)]
        for part in joined:
            part.start = len(self.lookups)
            self.lookups += [f"{part.name}{LOOKUP_SEP}{n}" for n in part.plan.lookups]
        self.names = [part.name for part in self.parts]
        self.joins = [join for part in self.parts for join in part.joins]
        self.models = {self.model}.union(*(part.plan.models for part in joined))
        pairs = ",".join(f"{_dumps(name)}:%s" for name in self.names)
        self.template = f"{{{pairs}}}"
        self.needs_records = (
            self.is_custom
            or self.asks
            or any(isinstance(part, _Extra) for part in self.parts)
            or any(part.plan.needs_records for part in joined)
            or _needs_instances(self.model)
        )

    def add_lookup(self, lookup, getter):
        """Want a column; return its position."""
        self.lookups.append(lookup)
        self.getters.append(
            operator.attrgetter(getter) if isinstance(getter, str) else getter
        )
        return len(self.lookups) - 1

    def _part(self, name, field):
        if field is None:
            return _Extra(self, name)
        if isinstance(field, models.ForeignKey):
            return self._relation(field)
        if _is_tags_manager(field):
            return _Tags(self, field)
        if field.many_to_many:
            return _Members(self, field)
        return _Column(self, name, field)

    def _relation(self, field):
        """Return the part for a foreign key: its pk, joined, or fetched beside."""
        related = field.remote_field.model
        endpoint_class = endpoint.find(related)
        has_own_queryset = _overrides(endpoint_class, "get_queryset")
        is_private = has_own_queryset or _overrides(endpoint_class, "can_get")
        levels = self._levels_below(field, endpoint_class)
        if levels is None or is_private and not self.has_user:
            return _Key(self, field)
        make_plan = functools.partial(
            _Plan, related, endpoint_class, chosen=encoder.find(related),
            has_user=self.has_user, html_escape=self.html_escape, levels=levels,
            ancestors=self.ancestors,
        )  # fmt: skip
        if not has_own_queryset and not _is_filtered(related) and self._joins(field):
            return _Joined(self, field, make_plan(budget=self.budget))
        source = _Source(make_plan, self._is_near(related))
        source = self.sources.setdefault((related, repr(levels)), source)
        return _Fetched(self, field, source)

    def _levels_below(self, field, endpoint_class):
        """Return the levels for what a foreign key refers to, None if it stays a pk."""
        levels, names = self.levels
        if names is not None:
            return (levels, names[field.name]) if field.name in names else None
        related = field.remote_field.model._meta.concrete_model
        if levels < 1 or related in self.ancestors:
            return None
        own_levels, own_names = _levels(endpoint_class.expand)
        return min(levels - 1, own_levels), own_names

    def _is_near(self, related):
        """Whether another model is read from the same database."""
        return router.db_for_read(related) == router.db_for_read(self.model)

    def _joins(self, field):
        """Whether a join reads the relation safely; if so, take it off the budget."""
        related = field.remote_field.model
        tables = 1 + len(related._meta.all_parents)
        near = self._is_near(related)
        joins = field.db_constraint and near and self.budget[0] >= tables
        self.budget[0] -= tables * joins
        return joins

    # Reading

    @cached_property
    def _prepared(self):
        """The query every request begins with, made once; None if hooks make it."""
        if self.own_queryset or _is_filtered(self.model):
            return None
        return self.prepare(self.model._default_manager.all())

    def queryset(self, endpoint, conditions=()):
        """Return the query of all that the endpoint shows, ready to narrow and load."""
        if self._prepared is None or self._has_listeners():
            queryset = endpoint.get_queryset(endpoint.request)
            return self.prepare(queryset.filter(*conditions))
        return self._prepared.filter(*conditions) if conditions else self._prepared

    def prepare(self, queryset):
        by_rows = _adds_only(type(queryset)) and not self.needs_records
        if by_rows and not self._has_listeners():
            return queryset.values_list(*self.lookups)
        queryset = queryset.defer(None)
        return queryset.select_related(*self.joins) if self.joins else queryset

    def _has_listeners(self):
        """Whether somebody listens to pre_init or post_init of what is read."""
        return any(
            signal.has_listeners(model)
            for model in self.models
            for signal in (model_signals.pre_init, model_signals.post_init)
        )

    def load(self, queryset, endpoint):
        """Return the batch of a queryset that `prepare` made."""
        request, using = endpoint.request, queryset.db
        if not queryset.query.values_select:
            return self.batch(list(queryset), using, request, endpoint)
        try:
            return _Statement(queryset).load(request, endpoint)
        except EmptyResultSet:
            return _Batch([], None, using, request, endpoint)

    @property
    def _is_kept(self):
        """Whether nobody but the model itself has a say in how it is read."""
        rows = self._prepared
        return (
            rows is not None and rows.query.values_select and not self._has_listeners()
        )

    def load_one(self, pk, endpoint, using=None):
        """Return the batch of one record, empty if there is none."""
        if self._is_kept:
            options = {"request": endpoint.request, "endpoint": endpoint}
            return self._by_pk.load(using or self._prepared.db, [pk], **options)
        found = self.queryset(endpoint, [Q(pk=pk)])[:1]
        return self.load(found.using(using) if using else found, endpoint)

    def load_page(self, endpoint, conditions, order, start, size):
        """Return the batch of a page of what the conditions hold, and their total."""
        is_whole = self._is_kept and not conditions
        if is_whole:
            using = self._prepared.db
            total = self._count.load(using).column(0)[0]
        else:
            every = endpoint.get_queryset(endpoint.request)
            total = every.filter(*conditions).count()
        limits = (start, start + size)
        if start >= total:
            return _Batch([], None, None, None), total
        if is_whole and order == self._order:
            options = {"request": endpoint.request, "endpoint": endpoint}
            return self._ordered.load(using, limits=limits, **options), total
        found = _in_order(self.queryset(endpoint, conditions), order)
        return self.load(found[slice(*limits)], endpoint), total

    def record(self, pk, endpoint, using=None):
        """Return one record as an instance, None if the endpoint has none."""
        if self._prepared is None or not _adds_only(type(self._prepared)):
            found = endpoint.get_queryset(endpoint.request).filter(pk=pk)[:1]
            return next(iter(found.using(using) if using else found), None)
        using = using or self._prepared.db
        columns = self._instance_by_pk.load(using, [pk]).converted()
        names = [field.attname for field in self.model._meta.concrete_fields]
        for values in zip(*columns, strict=True):
            return self.model.from_db(using, names, values)
        return None

    @cached_property
    def _by_pk(self):
        return _KeptStatements(self._prepared.order_by(), pk=self.model._meta.pk)

    @property
    def _order(self):
        return tuple(self.endpoint_class.ordering or ())

    @cached_property
    def _ordered(self):
        return _KeptStatements(_in_order(self._prepared, self._order))

    @cached_property
    def _count(self):
        counted = models.Func(template="COUNT(*)", output_field=models.IntegerField())
        every = self.model._default_manager.order_by()
        return _KeptStatements(every.values_list(counted))

    @cached_property
    def _instance_by_pk(self):
        opts = self.model._meta
        names = [field.attname for field in opts.concrete_fields]
        rows = self.model._default_manager.order_by().values_list(*names)
        return _KeptStatements(rows, pk=opts.pk)

    def allowed(self, batch, endpoint):
        """Return a batch without the records that the user may not get."""
        if not (self.asks and batch.pks):
            return batch
        records = [
            each for each in batch.records if endpoint.can_get(endpoint.user, each)
        ]
        return self.batch(records, batch.using, batch.request, endpoint)

    def batch(self, records, using, request, endpoint=None):
        """Return the batch of instances that are there already."""
        columns = [[get(record) for record in records] for get in self.getters]
        endpoint = endpoint or self.endpoint_class.for_model(self.model, request)
        return _Batch(columns, records, using, request, endpoint)

    def batch_of(self, records, request=None):
        """Return the batch of somebody's instances, their relations read at once."""
        for name in {join.partition(LOOKUP_SEP)[0] for join in self.joins}:
            _clean_key(records, self.model._meta.get_field(name))
        models.prefetch_related_objects(records, *self.joins)
        using = router.db_for_read(self.model, instance=records[0])
        return self.batch(records, using, request)

    def fetch(self, pks, request, using):
        """Return the JSON text by pk of those of the records that are shown."""
        if not pks:
            return {}
        endpoint = self.endpoint_class.for_model(self.model, request)
        queryset = self.queryset(endpoint, [Q(pk__in=pks)])
        if using and not self.own_queryset:
            queryset = queryset.using(using)
        batch = self.load(queryset, endpoint)
        batch = self.allowed(batch, endpoint)
        return dict(zip(batch.pks, self.write(batch), strict=True))

    # Writing

    def write(self, batch):
        """Return the JSON text of each record of a batch."""
        if not batch.pks:
            return []
        return self._write_custom(batch) if self.is_custom else self.write_plain(batch)

    def write_plain(self, batch):
        texts = [part.texts(batch) for part in self.parts]
        return list(map(self.template.__mod__, zip(*texts, strict=True)))

    def write_related(self, records, batch):
        """Return the JSON text of each instance, of its pk where that is refused."""
        inner = self.batch(records, batch.using, batch.request)
        texts = dict(zip(map(id, records), self.parts[0].texts(inner), strict=True))
        inner = self.allowed(inner, inner.endpoint)
        texts.update(zip(map(id, inner.records), self.write(inner), strict=True))
        return [texts[id(record)] for record in records]

    def _write_custom(self, batch):
        """Let the model's encoder speak, within what its endpoint lets be seen."""
        options = {"html_escape": True} if self.html_escape else {}
        token = _encoding.set(self.plain_texts(batch))
        try:
            given = [_plain(self.encoder(each, **options)) for each in batch.records]
        finally:
            _encoding.reset(token)
        return [_dumps(_without(each, self._hidden)) for each in given]

    @cached_property
    def _hidden(self):
        """The keys of the model that its endpoint does not let be seen."""
        seen = _within(self.model, self.endpoint_class)
        unseen = [f for n, f in _model_fields(self.model).items() if n not in seen]
        return {
            name for f in unseen for name in (f.name, getattr(f, "attname", f.name))
        }

    def plain_texts(self, batch):
        """Return by id of each instance what is written of it without its encoder."""
        return dict(zip(map(id, batch.records), self.write_plain(batch), strict=True))


def _clean_key(records, field):
    """Give instances the foreign key that their field makes of it: an int for "5"."""
    for record in records:
        if not field.is_cached(record):
            try:
                key = field.to_python(getattr(record, field.attname))
            except ValidationError:
                key = None
            setattr(record, field.attname, key)


def _without(data, keys):
    if not isinstance(data, dict):
        return data
    return {key: value for key, value in data.items() if key not in keys}


#: What is written of the instances that a custom encoder is speaking for, by their id.
_encoding = contextvars.ContextVar("encoding")


def _encode_records(records, chosen=None, html_escape=False, request=None):
    """Return instances as dicts, in their order, as the request's user may see them."""
    encoded = {}
    # Not type(): request.user is a lazy object.
    for model in {record._meta.model: None for record in records}:
        same = [record for record in records if record._meta.model is model]
        plan = endpoint.plan(
            model, has_user=bool(request), html_escape=html_escape, chosen=chosen
        )
        texts = plan.write(plan.batch_of(same, request))
        encoded.update(zip(map(id, same), map(json.loads, texts), strict=True))
    return [encoded[id(record)] for record in records]


# --- Encoders -------------------------------------------------------------------------


class DefaultEncoder:
    """How a model looks in JSON; extend `to_dict` to say it in code."""

    #: Whether every text is escaped for HTML.
    html_escape = False

    def to_dict(self, record, expand=None, html_escape=False, fields=None):
        """Return what is shown of a record as a dict of plain data.

        `expand=False` gives foreign keys as pks, `fields` names the only keys wanted.
        """
        data = self._prepared(record, html_escape)
        if expand is False:
            for name, field in _model_fields(record._meta.model).items():
                is_expanded = isinstance(data.get(name), dict)
                if is_expanded and isinstance(field, models.ForeignKey):
                    data[name] = data[name]["pk"]
        if fields is not None:
            data = {k: value for k, value in data.items() if k == "pk" or k in fields}
        return data

    def _prepared(self, record, html_escape):
        """Return the record's dict, written with the others of the batch it is of."""
        texts = _encoding.get({})
        if id(record) not in texts:
            model = record._meta.model
            plan = endpoint.plan(model, html_escape=html_escape, chosen=self)
            texts = plan.plain_texts(plan.batch_of([record]))
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


class Encoders:
    """The registry of encoders: what each model looks like, wherever it appears."""

    def __init__(self):
        self._registry = {}

    def register(self, model, encoder):
        """Let an encoder (or its class, or a function of the record) speak for a model.

        Raise AlreadyRegistered if one does.
        """
        if model in self._registry:
            raise AlreadyRegistered(f"{model._meta.label} has an encoder already.")
        self._registry[model] = _as_encoder(encoder)
        endpoint.forget_plans()

    def unregister(self, model):
        """Take the model's encoder away; raise NotRegistered if it has none."""
        if model not in self._registry:
            raise NotRegistered(f"{model._meta.label} has no encoder.")
        del self._registry[model]
        endpoint.forget_plans()

    def is_registered(self, model):
        """Return whether an encoder speaks for the model."""
        return model in self._registry

    def find(self, model):
        """Return the encoder of a model, or of what it is a proxy of, or None."""
        return _find(self._registry, model)

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


def _find(registry, model):
    """Return what is registered for a model, or for what it is a proxy of, or None."""
    for base in model.__mro__:
        meta = getattr(base, "_meta", None)
        if meta and meta.concrete_model is model._meta.concrete_model:
            if base in registry:
                return registry[base]
    return None


encoder = Encoders()


# --- Reading input --------------------------------------------------------------------

_JSON_TYPE = "application/json"
_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", _JSON_TYPE)

#: NUL, which PostgreSQL refuses, and lone surrogates, which no database stores.
_BAD_TEXT = re.compile("[\0\ud800-\udfff]")


def _strict_object(pairs):
    if len(dict(pairs)) != len(pairs):
        raise ValueError(_("An object has a key twice."))
    return dict(pairs)


def _strict_integer(text):
    if len(text) > _MAX_INTEGER_DIGITS:
        raise ValueError(_("An integer has too many digits."))
    return int(text)


def _strict_float(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(_("%s is not a number in JSON.") % text[:20])
    return value


def _check_depth(value, allowed=_MAX_JSON_DEPTH):
    if isinstance(value, (dict, list)):
        if not allowed:
            raise ValueError(_("It is nested too deeply."))
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, allowed - 1)


def _check_text(value):
    """Raise ValidationError if a text that no database stores is in a JSON value."""
    if isinstance(value, str):
        if _BAD_TEXT.search(value):
            raise ValidationError(
                _("Null characters and lone surrogates are not allowed.")
            )
    elif isinstance(value, dict):
        _check_text(list(value))
        _check_text(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            _check_text(item)


def _parse_json(text):
    """Return the value of a JSON text (RFC 8259), bytes or str.

    Stricter than json.loads: no key twice, no NaN or Infinity, no giant integers, no
    deep nesting. Raise ValueError saying where.
    """
    try:
        value = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_strict_object,
            parse_int=_strict_integer,
            parse_float=_strict_float,
            parse_constant=_strict_float,
        )
    except RecursionError:
        raise ValueError(_("It is nested too deeply.")) from None
    _check_depth(value)
    return value


def _body(request):
    """Return what the client sent, and the AJAXError if it cannot be read.

    The same is `request.data` from then on: for JSON the parsed value, else
    request.POST.
    """
    if not hasattr(request, "data"):
        request.data, request.data_error = request.POST, None
        if request.content_type == _JSON_TYPE and request.body:
            try:
                request.data = _parse_json(request.body)
            except ValueError as error:
                message = _("The body is not valid JSON: %s") % error
                request.data, request.data_error = None, AJAXError(400, message)
    return request.data, request.data_error


def _checked_body(request):
    data, error = _body(request)
    if error:
        raise error
    return data


def _check_body(request):
    """Raise AJAXError 400 for a body that code of the project's should not meet: one
    that cannot be read, or with text that no database stores."""
    data = _checked_body(request)
    try:
        _check_text(dict(data.lists()) if isinstance(data, MultiValueDict) else data)
    except ValidationError as error:
        raise AJAXError(400, " ".join(error.messages)) from None


class _FormValue(list):
    """What one key of a form came with: texts and files."""


def _submitted(request):
    """Return by name what was sent: JSON values, or _FormValues.

    Raise AJAXError 400 if it is not JSON, or no object.
    """
    data = _checked_body(request)
    if isinstance(data, MultiValueDict):
        sent = {}
        for key, values in (*request.POST.lists(), *request.FILES.lists()):
            sent.setdefault(key.removesuffix("[]"), _FormValue()).extend(values)
    elif isinstance(data, dict):
        sent = dict(data)
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


def _parse_pk(model, value):
    """Return a pk as its field has it; raise ValidationError for what is none."""
    field = _root_key(model)
    if isinstance(value, (bool, float, dict, list)) or value is None:
        raise _invalid_value()
    _check_text(value)
    try:
        parsed = _in_range(field.to_python(value))
        field.run_validators(parsed)
    except (ArithmeticError, TypeError, ValueError):
        raise _invalid_value() from None
    if isinstance(parsed, int):
        if str(parsed) != str(value) or not -(2**63) <= parsed < 2**63:
            raise _invalid_value()
    return parsed


def _sent_pk(model, value):
    """Return the pk sent for a relation, bare or in an object that holds it."""
    return _parse_pk(model, value.get("pk") if isinstance(value, dict) else value)


def _single(value):
    """Return what came for a key that takes one value, and whether by a form."""
    if not isinstance(value, _FormValue):
        return value, False
    if len(value) != 1:
        raise ValidationError(_("This key takes one value."))
    return value[0], True


def _several(value):
    """Return the list that came for a key: a JSON list, or a form's repeated key."""
    if isinstance(value, _FormValue):
        if value == [""]:
            return []
        if len(value) != 1 or not isinstance(value[0], str) or value[0][:1] != "[":
            return list(value)
        try:
            value = _parse_json(value[0])
        except ValueError:
            raise _invalid_value() from None
    if not isinstance(value, list):
        raise ValidationError(_("This key takes a list."))
    return value


def _is_null(field, value, by_form):
    """Whether a value is NULL; raise ValidationError where the field has none."""
    if by_form and not isinstance(field, _TEXT_FIELDS) and field.null:
        return value in ("", "null")
    if value is None and not field.null:
        raise ValidationError(field.error_messages["null"])
    return value is None


def _read_boolean(field, value, by_form):
    if not by_form:
        if not isinstance(value, bool):
            raise _invalid_value()
        return value
    words = {"true": True, "on": True, "false": False, "off": False}
    return field.to_python(words.get(value.lower(), value))


def _read_datetime(value):
    """Return a date-time with or without offset, as USE_TZ wants, within its range."""
    if settings.USE_TZ:
        value = from_current_timezone(value) if timezone.is_naive(value) else value
        value.astimezone(datetime.timezone.utc)
    elif timezone.is_aware(value):
        value = timezone.make_naive(value)
    return value


def _read_value(field, sent):
    """Return the value for a field (no relation, no file) from what was sent.

    Raise ValidationError if it cannot be one. What the field makes of it (length,
    range, choices) is for validation to say.
    """
    value, by_form = _single(sent)
    if _is_null(field, value, by_form):
        return None
    _check_text(value)
    try:
        return _read_scalar(field, value, by_form)
    except (ArithmeticError, AttributeError, TypeError, ValueError):
        raise _invalid_value() from None


_SCALAR_FIELDS = (
    *_TEXT_FIELDS,
    models.BinaryField,
    models.DateField,
    models.DecimalField,
    models.DurationField,
    models.FloatField,
    models.GenericIPAddressField,
    models.IntegerField,
    models.TimeField,
    models.UUIDField,
)


def _read_scalar(field, value, by_form):
    if isinstance(field, models.BooleanField):
        return _read_boolean(field, value, by_form)
    if hasattr(field, "base_field"):  # PostgreSQL's ArrayField
        values = _parse_json(value) if by_form else value
        if not isinstance(values, list):
            raise _invalid_value()
        return [_read_value(field.base_field, each) for each in values]
    if isinstance(field, models.JSONField):
        value = _parse_json(value) if by_form else value
        _check_text(value)
        return value
    if isinstance(field, models.BinaryField):
        return base64.b64decode(value, validate=True)
    if isinstance(field, models.FilePathField):
        return field.formfield(required=not field.blank).clean(value)
    if isinstance(field, _SCALAR_FIELDS) and isinstance(
        value, (bool, dict, list, File)
    ):
        raise _invalid_value()
    if isinstance(field, models.IntegerField) and isinstance(value, float):
        if not value.is_integer():
            raise _invalid_value()
    return _in_range(field.to_python(value))


def _in_range(value):
    """Return a value as the database takes it; raise ValidationError beyond that."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _invalid_value()
    if isinstance(value, datetime.datetime):
        return _read_datetime(value)
    if isinstance(value, datetime.timedelta):
        # SQLite keeps microseconds, in 64 bits.
        if abs(value) >= datetime.timedelta(microseconds=2**63 - 1):
            raise _invalid_value()
    return value


def _read_file(field, sent):
    """Return the upload, None to clear the file, or False to leave it as it is."""
    value, _by_form = _single(sent)
    if value is None or value == "null":
        if not field.blank:
            raise ValidationError(field.error_messages["null"])
        return None
    if isinstance(value, File):
        return field.formfield(required=False).clean(value, None)
    if isinstance(value, str):
        return False
    raise _invalid_value()


def _read_tags(manager, sent):
    """Return the tag names that were sent: a list, or text as taggit parses it."""
    from taggit.utils import parse_tags

    value = sent
    if isinstance(sent, _FormValue) and len(sent) == 1 and isinstance(sent[0], str):
        value = sent[0]
    if isinstance(value, str):
        _check_text(value)
        value = parse_tags(value)
    if not isinstance(value, list):
        raise ValidationError(_("Tags are a list of names, or text."))
    if len(value) > _MAX_TAGS:
        raise ValidationError(_("At most %s tags.") % _MAX_TAGS)
    field = manager.remote_field.model._meta.get_field("name")
    names = [each.get("name") if isinstance(each, dict) else each for each in value]
    for name in names:
        if not isinstance(name, str):
            raise _invalid_value()
        _check_text(name)
        field.clean(name, None)
    return sorted({*names})


# --- What `list` lets a client ask for ------------------------------------------------


class _Lookup:
    """A path as in `filter()`: the field it ends at, and the lookup after it.

    `is_multiple` is whether the path crosses a relation to many.
    """

    def __init__(self, model, name):
        self.field, self.rest, self.is_multiple = None, name.split(LOOKUP_SEP), False
        opts = model._meta
        while self.rest and opts:
            part = self.rest[0]
            try:
                found = opts.pk if part == "pk" else opts.get_field(part)
            except FieldDoesNotExist:
                break
            self.field = found
            self.is_multiple |= bool(found.many_to_many or found.one_to_many)
            opts = found.related_model._meta if found.is_relation else None
            del self.rest[0]
        if self.field is None or self.rest and not self._has(self.rest[0]):
            raise FieldDoesNotExist(f"{model._meta.label} has no lookup {name!r}.")

    def _has(self, name):
        if self.field.is_relation:
            return name in ("isnull", "in", "exact")
        return bool(self.field.get_lookup(name) or self.field.get_transform(name))


#: The _Lookup of a name that an endpoint's author wrote.
_resolve = functools.lru_cache(maxsize=1024)(_Lookup)


#: What the admin's prefixes of search fields stand for.
_SEARCH_PREFIXES = {"^": "istartswith", "=": "iexact", "@": "search"}


def _search_name(name):
    """Return the path of a search field without the admin's prefix."""
    return name[1:] if name[0] in _SEARCH_PREFIXES else name


def _search_lookup(model, name):
    """Return a search field as a lookup, the way the admin reads it."""
    if name[0] in _SEARCH_PREFIXES:
        return f"{name[1:]}{LOOKUP_SEP}{_SEARCH_PREFIXES[name[0]]}"
    return name if _resolve(model, name).rest else f"{name}{LOOKUP_SEP}icontains"


#: What `list` always takes.
_PARAMETERS = ("order_by", "items_per_page", "current_page")

#: Lookups that compare with a value as the field itself has it.
_COMPARISONS = ("exact", "gt", "gte", "lt", "lte")
#: Lookups that look for a text.
_TEXT_LOOKUPS = (
    *("contains", "icontains", "startswith", "istartswith", "endswith", "iendswith"),
    *("iexact", "regex", "iregex", "search", "has_key"),
)


def _filter_condition(model, entry, value, by_form):
    """Return the condition that an entry of `list_filter` has a value."""
    # A list means any of its values, one by one.
    entry = entry.removesuffix(f"{LOOKUP_SEP}in")
    lookup = _resolve(model, entry)
    field, rest = lookup.field, lookup.rest
    if isinstance(value, File):
        raise _invalid_value()
    if rest[-1:] == ["isnull"]:
        return Q((entry, _read_boolean(models.BooleanField(), value, by_form)))
    if not rest and (value is None or by_form and value == "null"):
        return Q((f"{entry}{LOOKUP_SEP}isnull", True))
    if field.is_relation:
        entry = entry.removesuffix(f"{LOOKUP_SEP}exact")
        return Q((f"{entry}{LOOKUP_SEP}pk", _sent_pk(field.related_model, value)))
    if rest[-1:] == ["range"]:
        if not isinstance(value, list) or len(value) != 2:
            raise ValidationError(_("A range has two values."))
        value = [_filter_value(field, rest[:-1], each, by_form) for each in value]
    else:
        value = _filter_value(field, rest, value, by_form)
    return Q((entry, value))


def _filter_value(field, rest, value, by_form):
    """Return a value as a lookup takes it; raise ValidationError for what it cannot."""
    if not rest or len(rest) == 1 and rest[0] in _COMPARISONS:
        value = _read_value(field, _FormValue([value]) if by_form else value)
    elif isinstance(value, (dict, list)):
        raise _invalid_value()
    elif rest[-1] in _TEXT_LOOKUPS and value is not None:
        value = str(value)
        if rest[-1].endswith("regex"):
            try:
                re.compile(value)
            except (re.error, OverflowError, RecursionError):
                raise _invalid_value() from None
    elif not isinstance(field, models.JSONField):
        # What is asked of a transform, like a year, may be beyond any column.
        if isinstance(value, str) and re.fullmatch("-?[0-9]+", value):
            value = int(value) if len(value) < 20 else None
        elif isinstance(value, float) and abs(value) >= 2**63:
            raise _invalid_value()
    _check_filter_value(value)
    return value


def _check_filter_value(value):
    """Raise ValidationError for what no database can look for."""
    if isinstance(value, list):
        for each in value:
            _check_filter_value(each)
    elif value is None or isinstance(value, dict):
        raise _invalid_value()
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise _invalid_value()
    elif isinstance(value, str) and len(value) > _MAX_FILTER_LENGTH:
        raise ValidationError(_("At most %s characters.") % _MAX_FILTER_LENGTH)
    _check_text(value)


def _is_possible(model, condition):
    """Whether a condition can be put into SQL: not so a year beyond the calendar."""
    try:
        str(model._base_manager.filter(condition).query)
    except EmptyResultSet:
        return True
    except (ArithmeticError, LookupError, TypeError, ValueError, ValidationError):
        return False
    return True


def _whole_number(sent, default):
    """Return the whole number that was sent, the default for junk."""
    values = sent if isinstance(sent, _FormValue) else [sent]
    text = str(values[0]) if len(values) == 1 else ""
    return int(text[:30]) if re.fullmatch("-?[0-9]+", text) else default


def _invalid_parameters(errors):
    return AJAXError(400, _("Invalid parameters."), errors=errors)


# --- Decorators -----------------------------------------------------------------------


class _Nobody:
    """The user of a request in a project that has none."""

    pk = None
    is_authenticated = is_active = is_staff = is_superuser = False
    is_anonymous = True

    def has_perm(self, permission, record=None):
        return False


def _user(request):
    return getattr(request, "user", None) or _Nobody()


def _login_url():
    """Return what goes beside an error that logging in would help."""
    try:
        return {"login_url": resolve_url(settings.LOGIN_URL)}
    except NoReverseMatch:
        return {}


def _require_login(request):
    if not _user(request).is_authenticated:
        raise AJAXError(403, _("User must be authenticated."), **_login_url())


def login_required(view):
    """Let only logged-in users call an ad-hoc endpoint, sync or async.

    Raise AJAXError 403, which is answered as JSON, for everybody else.
    """
    if iscoroutinefunction(view):

        @functools.wraps(view)
        async def guarded(request, *args, **kwargs):
            await sync_to_async(_require_login)(request)
            return await view(request, *args, **kwargs)

    else:

        @functools.wraps(view)
        def guarded(request, *args, **kwargs):
            _require_login(request)
            return view(request, *args, **kwargs)

    return guarded


def allowed_methods(*methods):
    """Let `ModelEndpoint.authenticate`, which it decorates, pass only these."""

    def decorate(authenticate):
        @functools.wraps(authenticate)
        def guarded(self, request, application=None, method=None):
            if (method or self.method) not in methods:
                raise AJAXError(403, _("Access denied."))
            taken = (application, method)[: _taken(authenticate, 4) - 2]
            return authenticate(self, request, *taken)

        return guarded

    return decorate


def json_response(view):
    """Give any view the answers of an endpoint: JSON for what it returns and raises."""

    @functools.wraps(view)
    def answered(request, *args, **kwargs):
        try:
            result = _called(view, request, *args, **kwargs)
            return _success_response(result, request)
        except Exception as error:
            return _error_response(request, error)

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


@functools.lru_cache(maxsize=256)
def _taken(function, offered):
    """Return how many of the positional arguments offered a function takes."""
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return offered
    # The kinds are in order; what comes after these two is not positional.
    last = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return min(offered, sum(kind <= last for kind in kinds))


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
    (DataError, 400, False),
    (getattr(core_exceptions, "ObjectNotUpdated", ()), 409, False),
)


#: PostgreSQL's "program limit exceeded": a text longer than its index can hold.
_TOO_LARGE = ("54000",)
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
    if getattr(error.__cause__, "sqlstate", None) in _TOO_LARGE:
        return AJAXError(400, _MESSAGES[400])
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
    elif isinstance(error, DatabaseError):
        # As an argument the text is escaped: it may quote what a client sent.
        said = (response.reason_phrase, request.path, str(error))
        log_response("%s: %s: %s", *said, **options)
    _roll_back()
    return response


def _roll_back():
    """Undo what a request under ATOMIC_REQUESTS wrote before its error."""
    for connection in connections.all(initialized_only=True):
        if connection.settings_dict["ATOMIC_REQUESTS"] and connection.in_atomic_block:
            connection.set_rollback(True)


# --- Endpoints ------------------------------------------------------------------------


class BaseAuthentication:
    """Who may call models and forms: every user that is logged in and active."""

    def is_authenticated(self, request, application, method):
        """Return whether the request's user may call the operation `method`."""
        user = _user(request)
        return user.is_authenticated and user.is_active


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

    def authorize(self, request):
        """Want login where LoginRequiredMiddleware does."""
        if not self.is_open and _has_login_middleware(tuple(settings.MIDDLEWARE)):
            _require_login(request)

    def run(self, request):
        _check_body(request)
        return _called(self.view, request)


@functools.lru_cache(maxsize=8)
def _has_login_middleware(middleware):
    """Whether LoginRequiredMiddleware (not importable while apps load) is in use."""
    wanted = ("django.contrib.auth.middleware", "LoginRequiredMiddleware")
    return any(
        (base.__module__, base.__name__) == wanted
        for each in map(import_string, middleware)
        for base in getattr(each, "__mro__", ())
    )


class _ServedEndpoint(BaseEndpoint):
    """What endpoints of models and forms share: who may call them, and with what body.

    There is one instance per request, with `request`, `application` (the label in the
    path), `model` (the form's class for a form), `method` (the operation) and `pk` (as
    in the path, None without one).
    """

    request = None

    def __init__(self, application, model, method, pk=None, **options):
        self.application = application
        self.model = model
        self.method = method
        self.pk = pk
        self.options = options

    @property
    def user(self):
        """The request's user."""
        return _user(self.request)

    def authenticate(self, request, application, method):
        """Return whether the user may call the operation at all; asked before anything
        else. By default AJAX_AUTHENTICATION says."""
        authentication = import_string(_setting("AJAX_AUTHENTICATION"))()
        return authentication.is_authenticated(request, application, method)

    def authorize(self, request):
        """Raise AJAXError 403 for who may not call, 415 for what cannot be read."""
        self.request = request
        _body(request)
        if not self.authenticate(request, self.application, self.method):
            extra = {} if self.user.is_authenticated else _login_url()
            raise AJAXError(403, _("User is not authorized."), **extra)
        if request.content_type not in _TYPES and request.body:
            raise AJAXError(415, _("Send %s.") % ", ".join(_TYPES))


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
#: The hook that is asked for what Django calls permission to add, change, delete.
_HOOKS = {"add": "can_create", "change": "can_update", "delete": "can_delete"}


def _is_writable(field, is_named):
    """Whether clients may write a field that they see."""
    if field.many_to_many and not _is_tags_manager(field):
        if not field.remote_field.through._meta.auto_created:
            return False
    elif hasattr(field, "range_type"):
        return False  # PostgreSQL's ranges are shown, not written.
    elif not field.many_to_many and (field.generated or field.primary_key):
        return is_named and not field.generated
    return is_named or field.editable


def _is_incomplete(record):
    """Whether a relation that the record has to have is missing."""
    return any(
        isinstance(field, models.ForeignKey)
        and not field.null
        and getattr(record, field.attname) is None
        for field in record._meta.concrete_fields
    )


def _copy(record):
    """Return a copy of a record that can be changed without changing the record."""
    copied = copy.copy(record)
    for name, value in vars(copied).items():
        if isinstance(value, (dict, list)):
            setattr(copied, name, copy.deepcopy(value))
    return copied


_MISSING = object()


def _compared(stored, modified):
    """Return the fields that differ between two instances, and those that do not."""
    before, after = vars(stored), vars(modified)
    changed, same = [], []
    for field in stored._meta.concrete_fields:
        value = after.get(field.attname, _MISSING)
        is_same = before.get(field.attname, _MISSING) == value
        if isinstance(value, File):
            # A file compares by its name alone; an upload is not committed yet.
            is_same = is_same and getattr(value, "_committed", False)
        elif isinstance(field, models.JSONField):
            # To Python True is 1; not so to JSON.
            is_same = is_same and repr(before.get(field.attname)) == repr(value)
        (same if is_same else changed).append(field)
    return changed, same


@functools.cache
def _custom_operations(endpoint_class):
    """Return the names of the operations that subclasses of ModelEndpoint add."""
    found = set()
    for base in endpoint_class.__mro__:
        if issubclass(base, ModelEndpoint) and base is not ModelEndpoint:
            for name, value in vars(base).items():
                if inspect.getattr_static(endpoint_class, name) is value:
                    if _is_operation(name, value):
                        found.add(name)
    return found


def _is_operation(name, value):
    """Whether an attribute is a public method of its own that only wants `request`."""
    if name.startswith("_") or hasattr(ModelEndpoint, name):
        return False
    if not inspect.isfunction(value):
        return False
    parameters = [*inspect.signature(value).parameters.values()][1:]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in variable
    ]
    return wanted == ["request"] and parameters[0].name == "request"


#: The class attributes that are lists of names.
_LISTS = (
    "exclude", "readonly_fields", "immutable_fields",
    "sortable_by", "search_fields", "list_filter",
)  # fmt: skip


class _Input:
    """What was read of a body: errors by key, and what is saved after the record."""

    def __init__(self, request=None):
        self.values, self.failure = {}, None
        self.errors = {}
        self.checked = {}
        self.members = {}
        self.tags = {}
        try:
            self.values = _submitted(request) if request else {}
        except AJAXError as error:
            self.failure = error

    @property
    def is_bad(self):
        return bool(self.failure or self.errors)

    def refuse_unknown(self, shown):
        """Hold an error for each key that is not one of those shown."""
        unknown = [key for key in self.values if key not in shown]
        for key in unknown[:_MAX_UNKNOWN_KEYS]:
            self.errors[key] = _unknown(key, shown)

    def check(self):
        """Raise the AJAXError of a body that could not be read."""
        if self.failure:
            raise self.failure
        if self.errors:
            raise _invalid(self.errors)


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

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in _LISTS:
            # None is none, as for ModelAdmin.
            if vars(cls).get(name, ()) is None:
                setattr(cls, name, ())

    @classmethod
    def for_model(cls, model, request):
        """Return an endpoint that speaks for a model within another one's request."""
        found = cls(model._meta.app_label, model, "get")
        found.request = request
        return found

    # Operations

    def create(self, request):
        """Save a new record; return it as `get` would."""
        self.record = record = self.model()
        sent = self._read(request, record)
        with self._holding(sent, record):
            self.prepare_record(request, record, True)
            self._permit("add", record)
        self._validate(record, sent)
        using = router.db_for_write(self.model, instance=record)
        with transaction.atomic(using=using):
            self.save_record(request, record, True)
            self._save_relations(record, sent)
            ajax_created.send(sender=self.model, instance=record, request=request)
        return self._answer(record.pk, using)

    def get(self, request):
        """Return the record."""
        plan = self._plan
        batch = plan.load_one(self._parsed_pk(), self)
        if not batch.pks:
            raise self._not_found()
        if plan.asks:
            self.record = batch.records[0]
            if not self.can_get(self.user, self.record):
                raise _forbidden()
        return json.loads(plan.write(batch)[0])

    def update(self, request):
        """Save what changed of the record; return it as `get` would."""
        stored = self.record
        modified = _copy(stored)
        sent = self._read(request, modified)
        with self._holding(sent, modified):
            self.prepare_record(request, modified, False)
            self._permit("change", stored, modified)
        changed, same = _compared(stored, modified)
        self._validate(modified, sent, same)
        using = router.db_for_write(self.model, instance=stored)
        if changed or sent.members or sent.tags:
            self.record = modified
            with transaction.atomic(using=using):
                # What others wrote to the rest meanwhile stays.
                self._lock(modified, using, changed and [f.attname for f in same])
                if changed:
                    self.save_record(request, modified, False)
                self._save_relations(modified, sent)
                ajax_updated.send(sender=self.model, instance=modified, request=request)
        return self._answer(stored.pk, using)

    def delete(self, request):
        """Delete the record; return {"pk": ...}."""
        record = self.record
        self._permit("delete", record)
        payload = {"pk": record.pk}
        using = router.db_for_write(self.model, instance=record)
        with transaction.atomic(using=using):
            self._lock(record, using)
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
        order = self._order(sent)
        conditions = self._conditions(sent)
        start = (page - 1) * size
        batch, total = self._plan.load_page(self, conditions, order, start, size)
        return _Page(
            self._plan.write(self._plan.allowed(batch, self)),
            {
                "total": total,
                "total_pages": max(1, math.ceil(total / size)),
                "current_page": page,
                "items_per_page": size,
            },
        )

    def tags(self, request):
        """Run one of the tags commands; return all tags, or what is similar."""
        record = self.record
        command = self.options["taggit_command"]
        if command == "similar":
            return self._similar(request, record)
        sent = _Input() if command == "clear" else self._read_tags_parameter(request)
        with self._holding(sent, record):
            self._permit("change", record, record)
        sent.check()
        using = router.db_for_write(self.model, instance=record)
        with transaction.atomic(using=using):
            self._lock(record, using)
            names = sent.tags.get(self.method, [])
            run = getattr(getattr(record, self.method), command)
            run(names) if command == "set" else run(*names)
        tags = self._tags_part
        batch = _Batch([[record.pk]], None, using, request)
        return json.loads(tags.texts(batch)[0])

    # Records and querysets

    @cached_property
    def record(self):
        """The record of the path, None without one; AJAXError 404 if there is none."""
        if self.pk is None:
            return None
        self.record = None  # For who asks in get_queryset: it is being fetched.
        return self._get_record()

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
        root = getattr(record, _root_key(self.model).attname, None)
        has_key = (record.pk, root) != (None, None)
        if created and has_key and _accepts(type(record).save, "force_insert"):
            # Or Django would first try to update whoever has this key by now.
            record.save(force_insert=(models.Model,))
        else:
            record.save()

    def delete_record(self, request, record):
        """Delete a record, within the transaction."""
        record.delete()

    def _get_record(self):
        """Return the record of the path; raise AJAXError 400 without, 404 if gone."""
        if self.pk is None:
            raise AJAXError(400, _("Invalid request for record."))
        # A write decides by what is stored, not by what a replica has of it.
        writes = self.method in ("update", "delete") or "taggit_command" in self.options
        using = router.db_for_write(self.model) if writes else None
        record = self._plan.record(self._parsed_pk(), self, using)
        if record is None:
            raise self._not_found()
        return record

    def _parsed_pk(self):
        try:
            return _parse_pk(self.model, self.pk)
        except ValidationError:
            raise self._not_found() from None

    def _not_found(self):
        message = _('%(model)s with id of "%(pk)s" not found.')
        return AJAXError(404, message % {"model": self.model.__name__, "pk": self.pk})

    def _answer(self, pk, using):
        """Return a record that was written as `get` shows it, else its pk."""
        batch = self._plan.load_one(pk, self, using)
        texts = self._plan.write(self._plan.allowed(batch, self))
        return json.loads(texts[0]) if texts else {"pk": pk}

    def _lock(self, record, using, fields=()):
        """Make others who write the record wait; read some of its fields again.

        Raise AJAXError 409 if it is gone. The first statement of the transaction: where
        the database cannot lock a row, on SQLite, a write that changes nothing takes
        the database's lock.
        """
        rows = type(record)._base_manager.using(using).filter(pk=record.pk)
        key = record._meta.pk.name
        if connections[using].features.has_select_for_update:
            rows = rows.select_for_update()
            is_there = fields or rows
        else:
            is_there = rows.update(**{key: F(key)})
        try:
            if is_there and fields:
                record.refresh_from_db(using, fields, rows)
        except core_exceptions.ObjectDoesNotExist:
            is_there = False
        if not is_there:
            raise AJAXError(409, _MESSAGES[409])

    def _similar(self, request, record):
        """Return records that share tags with this one, most shared first."""
        if not self.can_get(self.user, record):
            raise _forbidden()
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
        texts = self._plan.write(self._plan.allowed(batch, self))
        return [json.loads(text) for text in texts]

    # Fields and reading

    @cached_property
    def _plan(self):
        return endpoint.plan(self.model, type(self), has_user=True)

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
            sent.tags[field.name] = _read_tags(field, value)
        elif field.many_to_many:
            sent.members[field.name] = self._read_members(request, record, field, value)
        elif isinstance(field, models.ForeignKey):
            self._read_foreign_key(request, record, field, value, sent)
        elif isinstance(field, models.FileField):
            upload = _read_file(field, value)
            if upload is not False:
                field.save_form_data(record, upload or False)
        else:
            setattr(record, field.attname, _read_value(field, value))

    def _read_foreign_key(self, request, record, field, value, sent):
        value, by_form = _single(value)
        if _is_null(field, value, by_form):
            setattr(record, field.name, None)
            return
        related = field.remote_field.model
        try:
            pk = _sent_pk(related, value)
        except ValidationError:
            raise self._no_choice(field, value) from None
        current = getattr(record, field.attname)
        if (
            field.target_field.primary_key
            and pk == current
            and not record._state.adding
        ):
            return
        found = self._choices(request, field, [pk])
        if not found:
            raise self._no_choice(field, value)
        setattr(record, field.name, found[0])
        key = getattr(record, field.attname)
        field.run_validators(key)
        sent.checked[field.name] = key

    def _choices(self, request, field, pks):
        """Return those of the related records that the client may refer to."""
        related = field.remote_field.model
        asked = endpoint.find(related).for_model(related, request)
        limits = field.get_limit_choices_to()
        is_own = _overrides(type(self), "get_field_queryset")
        if len(pks) == 1 and not limits and not is_own:
            found = [asked._plan.record(pks[0], asked)]
        else:
            found = self.get_field_queryset(request, field)
            found = found.complex_filter(limits).filter(pk__in=pks)
        return [
            each for each in found
            if each is not None and asked.can_get(self.user, each)
        ]  # fmt: skip

    def _no_choice(self, field, value):
        """Return the error for a relation to nothing, or to what may not be seen."""
        if isinstance(value, dict):
            value = value.get("pk")
        shown = _dumps(_plain(value))[:100]
        return ValidationError(
            _("%(model)s with pk %(pk)s does not exist."),
            params={"model": field.remote_field.model._meta.verbose_name, "pk": shown},
        )

    def _read_members(self, request, record, field, value):
        values = _several(value)
        related = field.remote_field.model
        if not values and not field.blank:
            raise ValidationError(field.error_messages["blank"])
        if len(values) > _MAX_MEMBERS:
            raise ValidationError(_("At most %s values.") % _MAX_MEMBERS)
        wanted = {}
        for each in values:
            try:
                wanted[_sent_pk(related, each)] = each
            except ValidationError:
                raise self._no_choice(field, each) from None
        known = {each.pk for each in self._choices(request, field, [*wanted])}
        if not wanted.keys() <= known and not record._state.adding:
            # What is there already may stay, so that a record can be sent back whole.
            known |= {*getattr(record, field.name).values_list("pk", flat=True)}
        for pk, each in wanted.items():
            if pk not in known:
                raise self._no_choice(field, each)
        return [*wanted]

    def _read_tags_parameter(self, request):
        """Read the parameter `tags` of a tags command."""
        sent = _Input(request)
        try:
            if "tags" not in sent.values:
                raise ValidationError(_("This field is required."))
            manager = self.model._meta.get_field(self.method)
            sent.tags[self.method] = _read_tags(manager, sent.values["tags"])
        except ValidationError as error:
            sent.errors["tags"] = error.messages
        sent.refuse_unknown(["tags"])
        return sent

    # Validation and saving

    @contextlib.contextmanager
    def _holding(self, sent, record):
        """Ask the hooks about a record while errors of reading it are held.

        What they raise then is a refusal: they may have met a value that is not there.
        """
        try:
            yield
        except Exception as error:
            is_missing = isinstance(error, core_exceptions.ObjectDoesNotExist)
            if sent.is_bad or is_missing and _is_incomplete(record):
                raise _forbidden() from error
            raise

    def _validate(self, record, sent, same=()):
        """Raise AJAXError 400 with all that is wrong with a record that was read.

        Like Model.full_clean(), but what the model says of the whole is asked only when
        each field, but the ones that are the `same` as stored, is fine by itself.
        """
        if sent.failure:
            raise sent.failure
        skip = {field.name for field in same} | sent.errors.keys()
        for name, key in sent.checked.items():
            if getattr(record, record._meta.get_field(name).attname) == key:
                skip.add(name)
        self._run_checks(sent, [functools.partial(record.clean_fields, skip)])
        is_own = type(record).full_clean is not models.Model.full_clean
        if record._state.adding and is_own:
            self._run_checks(sent, [record.full_clean])
        else:
            whole = (record.clean, record.validate_unique, record.validate_constraints)
            self._run_checks(sent, whole)

    def _run_checks(self, sent, checks):
        """Raise AJAXError 400 with the errors of some checks, and those held already.

        What is said about a field that the client does not see is said of the record.
        """
        found = {}
        for check in checks:
            try:
                check()
            except ValidationError as error:
                found = error.update_error_dict(found)
        errors = dict(sent.errors)
        if found:
            for name, messages in ValidationError(found).message_dict.items():
                is_key = name in (self.model._meta.pk.name, _root_key(self.model).name)
                key = "pk" if is_key and name not in self._plan.names else name
                key = key if key in self._plan.names else NON_FIELD_ERRORS
                errors[key] = [*errors.get(key, ()), *messages]
        if errors:
            raise _invalid(errors)

    def _save_relations(self, record, sent):
        for name, values in (sent.members | sent.tags).items():
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

    def _order(self, sent):
        """Return the order that was sent, as for order_by(), else the endpoint's."""
        value = sent.pop("order_by", "")
        keys = value if isinstance(value, list) else [value]
        if not all(isinstance(key, str) for key in keys):
            raise _invalid_parameters({"order_by": _invalid_value().messages})
        keys = [key.strip() for text in keys for key in text.split(",") if key.strip()]
        if len(keys) > _MAX_SORT_KEYS:
            errors = [_("At most %s names.") % _MAX_SORT_KEYS]
            raise _invalid_parameters({"order_by": errors})
        known = [f"{sign}{name}" for name in self.sortable_by for sign in ("", "-")]
        unknown = [key for key in keys if key not in known]
        if unknown:
            errors = [
                _("This list cannot be ordered so."),
                *_unknown(unknown[0], known),
            ]
            raise _invalid_parameters({"order_by": errors})
        return keys or tuple(self.ordering or ())

    def _conditions(self, sent):
        """Return what was sent to narrow the list, as for filter()."""
        conditions, errors = [], {}
        for key, value in sent.items():
            try:
                conditions.append(self._condition(key, value))
            except ValidationError as error:
                errors[key] = error.messages
            if len(errors) == _MAX_UNKNOWN_KEYS:
                break
        if errors:
            raise _invalid_parameters(errors)
        return conditions

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
        """Return the condition that all words are found, the way the admin does."""
        text, _by_form = _single(value)
        _check_filter_value(text)
        if not isinstance(text, str):
            raise _invalid_value()
        # smart_split is lazy, and slow on unclosed quotes.
        words = list(itertools.islice(smart_split(text), _MAX_SEARCH_WORDS + 1))
        if len(words) > _MAX_SEARCH_WORDS:
            raise ValidationError(_("At most %s words.") % _MAX_SEARCH_WORDS)
        lookups = [_search_lookup(self.model, field) for field in self.search_fields]
        found = Q()
        for word in words:
            if word.startswith(('"', "'")) and word[0] == word[-1]:
                word = unescape_string_literal(word)
            tried = [Q((lookup, word)) for lookup in lookups]
            # A number is not looked for where the word is none.
            apt = [each for each in tried if _is_possible(self.model, each)]
            found &= functools.reduce(operator.or_, apt, Q(pk__in=[]))
        return self._once(found, lookups)

    def _filter(self, entry, value):
        """Return the condition that a filter has a value, or any of a list."""
        by_form = isinstance(value, _FormValue)
        values = value if isinstance(value, list) else [value]
        if len(values) > _MAX_FILTER_VALUES:
            raise ValidationError(_("At most %s values.") % _MAX_FILTER_VALUES)
        if entry.endswith(f"{LOOKUP_SEP}range"):
            values = [[*values]]
        found = Q(pk__in=[])
        for each in values:
            found |= _filter_condition(self.model, entry, each, by_form)
        if not _is_possible(self.model, found):
            raise _invalid_value()
        return self._once(found, [entry])

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

    def _once(self, condition, lookups):
        """Return a condition under which no record comes twice."""
        if any(_resolve(self.model, lookup).is_multiple for lookup in lookups):
            return Q(pk__in=self.model._base_manager.filter(condition).values("pk"))
        return condition

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

    def _permit(self, action, *records):
        """Raise AJAXError 403 unless the hook, and Django's permissions if they are
        wanted, allow an action."""
        hook = getattr(self, _HOOKS[action])
        given = (self.user, *records)
        # A method's function, which lives as long as its class, counts `self` too.
        is_method = inspect.ismethod(hook)
        taken = _taken(getattr(hook, "__func__", hook), len(given) + is_method)
        if not hook(*given[: taken - is_method]):
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
        name = self.method
        if self.operations is None or name in self.operations:
            if "taggit_command" in self.options:
                if self._offers_command():
                    return "tags"
            elif name in _OPERATIONS:
                if _OPERATIONS[name] and self.pk is None:
                    raise AJAXError(400, _("Invalid request for record."))
                if _OPERATIONS[name] is (self.pk is not None):
                    return name
            elif name in _custom_operations(type(self)):
                return name
        raise AJAXError(404, _("Invalid method."))

    def _offers_command(self):
        """Whether the tags manager and command of the path are there for clients."""
        command = self.options["taggit_command"]
        if not isinstance(self._tags_part, _Tags) or command not in _COMMANDS:
            return False
        return self.method in self._writable or not _COMMANDS[command]

    def resolve(self):
        """Find the operation, and whether CSRF is checked; return the endpoint."""
        self.operation = self.find_operation()
        exempt = getattr(getattr(self, self.operation), "csrf_exempt", False)
        self.csrf_exempt = self.csrf_exempt or exempt
        return self

    def run(self, request):
        """Run the operation; a custom one on a record only if `can_get` allows."""
        if self.operation in _custom_operations(type(self)):
            _check_body(request)
            if self.pk is not None and not self.can_get(self.user, self.record):
                raise _forbidden()
        return _called(getattr(self, self.operation), request)


class FormEndpoint(_ServedEndpoint):
    """Serves a Django form: validates what is sent, saves it, returns the result."""

    def get_form_kwargs(self, request):
        """Return what else the form is made with, as keywords."""
        return {}

    def create(self, request):
        """Return what `form.save()` returned, else the cleaned data.

        Raise AJAXError 400 with the form's errors.
        """
        data = _form_data(self.model, _checked_body(request))
        form = self.model(data, request.FILES, **self.get_form_kwargs(request))
        try:
            is_valid = form.is_valid()
        except (ArithmeticError, RecursionError, binascii.Error):
            # What Django's fields let through: numbers beyond a column, odd base64.
            raise _invalid({NON_FIELD_ERRORS: _invalid_value().messages}) from None
        if not is_valid:
            raise _invalid(form.errors)
        if not hasattr(form, "save"):
            return form.cleaned_data
        using = None
        if isinstance(form, forms.BaseModelForm):
            using = router.db_for_write(form._meta.model, instance=form.instance)
        with transaction.atomic(using=using):
            return form.save()

    def resolve(self):
        """Return the endpoint: its path is its one operation."""
        return self

    def run(self, request):
        """Run the operation."""
        return _called(self.create, request)


def _json_keys(form_class):
    fields = form_class.base_fields.items()
    return {name for name, each in fields if isinstance(each, forms.JSONField)}


def _form_data(form_class, data):
    """Return a JSON object the way a browser would send it, as the form's fields want
    it: text; raise AJAXError 400 for what is no object."""
    json_keys = _json_keys(form_class)
    if isinstance(data, MultiValueDict):
        for key in data.keys() & json_keys:
            try:
                _parse_json(data[key] or "null")
            except ValueError as error:
                raise _invalid({key: [str(error)]}) from None
        return data
    if not isinstance(data, dict):
        raise AJAXError(400, _("The body has to be a JSON object."))
    try:
        _check_text(data)
    except ValidationError as error:
        raise _invalid({NON_FIELD_ERRORS: error.messages}) from None
    found = MultiValueDict()
    for key, value in data.items():
        is_json = key in json_keys
        values = value if isinstance(value, list) and not is_json else [value]
        texts = [each if isinstance(each, str) else _dumps(each) for each in values]
        if value is not None:
            found.setlist(key, [_dumps(value)] if is_json else texts)
    return found


# --- Registry -------------------------------------------------------------------------


_SERVED = (models.Model, forms.BaseForm)


class Endpoints:
    """The registry of what is served: models and forms, by class and by path."""

    def __init__(self):
        self._registry = {}
        self._paths = {}
        self._plans = {}

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
        self.forget_plans()

    def unregister(self, model):
        """Serve a model or form no more; raise NotRegistered if it is not served."""
        if model not in self._registry:
            raise NotRegistered(f"{_label(model)} is not registered.")
        del self._registry[model]
        self._paths = {k: v for k, v in self._paths.items() if v is not model}
        self.forget_plans()

    def is_registered(self, model):
        """Return whether a model or form is served."""
        return model in self._registry

    def find(self, model):
        """Return the endpoint class that speaks for a model."""
        return _find(self._registry, model) or ModelEndpoint

    def at(self, base, application, name):
        """Return the model or form at a path and its endpoint class, or two Nones."""
        model = self._paths.get((base, application, name))
        return model, self._registry.get(model)

    def plan(
        self, model, endpoint_class=None, has_user=False, html_escape=False, chosen=None
    ):
        """Return the plan of a model at the top of an answer.

        Kept until something is registered, unless an encoder was `chosen`.
        """
        autodiscover()
        key = (model, endpoint_class, has_user, html_escape)
        if chosen is None and key in self._plans:
            return self._plans[key]
        plan = _Plan(
            model,
            endpoint_class or self.find(model),
            chosen=chosen or encoder.find(model),
            has_user=has_user,
            html_escape=html_escape,
        )
        if chosen is None:
            self._plans[key] = plan
        return plan

    def forget_plans(self):
        """Work the plans out anew: what is registered has changed."""
        self._plans = {}

    def _check(self, model, endpoint_class, base):
        if not issubclass(endpoint_class, base):
            raise ImproperlyConfigured(
                f"{_label(model)} wants a subclass of {base.__name__}, not "
                f"{endpoint_class.__name__}."
            )
        if base is ModelEndpoint:
            if model._meta.abstract:
                raise ImproperlyConfigured(
                    f"{_label(model)} is abstract, so it cannot be registered."
                )
            if isinstance(model._meta.pk, models.CompositePrimaryKey):
                raise ImproperlyConfigured(
                    f"{_label(model)} has a composite primary key, so it cannot be "
                    "registered."
                )


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
        self.is_done = self.is_running = False
        self.error = None
        self.functions = {}

    def run(self):
        """Import every app's endpoints.py; raise ImproperlyConfigured if one fails."""
        if not self.is_done:
            with self.lock:
                if not (self.is_done or self.is_running):
                    self._import_all()
        if self.error:
            message = f"{self.error[0]} cannot be imported: {self.error[1]!r}"
            raise ImproperlyConfigured(message) from self.error[1]

    def _import_all(self):
        registries = (endpoint, encoder)
        before = [{k: copy.copy(v) for k, v in vars(r).items()} for r in registries]
        self.is_running = True
        try:
            for config in apps.get_app_configs():
                where = f"{config.name}.endpoints"
                self.functions |= _import_endpoints(config)
        except BaseException as error:
            self.error = (where, error)
            self.functions = {}
            for registry, state in zip(registries, before, strict=True):
                vars(registry).update(state)
            if not isinstance(error, Exception):
                raise
        finally:
            self.is_running = False
            self.is_done = True


def _import_endpoints(config):
    """Import an app's endpoints.py; return its ad-hoc endpoints by (label, name)."""
    if not module_has_submodule(config.module, "endpoints"):
        return {}
    module = import_module(f"{config.name}.endpoints")
    if module is sys.modules[__name__]:
        return {}
    return {(config.label, n): _Function(view) for n, view in _exposed(module).items()}


def _exposed(module):
    """Return by name what a module offers: what `__all__` lists, else the BaseEndpoint
    instances made in it and the functions of a request defined in it."""
    if hasattr(module, "__all__"):
        found = {name: getattr(module, name) for name in module.__all__}
    else:
        found = {n: v for n, v in vars(module).items() if _is_endpoint(v, module)}
    return {
        name: value
        for name, value in found.items()
        if callable(value) and not isinstance(value, type) and not name.startswith("_")
    }


def _is_endpoint(value, module):
    """Whether a module defines a value that takes a request, and only that."""
    if getattr(value, "__module__", None) != module.__name__ or not callable(value):
        return False
    inner = inspect.unwrap(value)
    if not inspect.isfunction(inner):
        return isinstance(inner, BaseEndpoint)
    if [*inspect.signature(value).parameters][:1] != ["request"]:
        return False
    try:
        inspect.signature(value, follow_wrapped=False).bind(None)
    except TypeError:
        # A helper: it wants more than a request.
        return False
    return True


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


_CHARSETS = ("utf-8", "ascii", "iso8859-1", "cp1252")


def _check_request(request):
    """Raise AJAXError 405 unless it is a POST, 400 if its headers make no sense."""
    if request.method != "POST":
        raise AJAXError(405, _("Send a POST request, its parameters in the body."))
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or len(length) > 18:
        raise AJAXError(400, _("The Content-Length is not a number."))
    # Of the codecs that Python knows some are not for text, some take for ever.
    if codecs.lookup(request.encoding or "utf-8").name not in _CHARSETS:
        raise AJAXError(400, _("The charset is not one that browsers send."))


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
    options = {"taggit_command": command} if command else {}
    method = tags or operation or "create"
    return endpoint_class(app, served, method, pk=pk, **options).resolve()


@csrf_exempt
@login_not_required
def dispatch(request, **segments):
    """Answer a request: resolve its path, check CSRF, authorize, run, respond."""
    try:
        _check_request(request)
        found = _resolve_path(**segments)
        _check_csrf(request, found)
        found.authorize(request)
        response = _success_response(found.run(request), request)
    except Exception as error:
        response = _error_response(request, error)
    return _keep_csrf_cookie(request, response)


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
        yield checks.Error(
            str(error),
            hint="Until it is mended, every request is answered with status 500.",
            id="ajax.E001",
        )


def _model_endpoints():
    served = endpoint._registry.items()
    return [each for each in served if issubclass(each[1], ModelEndpoint)]


def _tags_managers(model):
    return [name for name, f in _model_fields(model).items() if _is_tags_manager(f)]


def _is_lookup(model, name):
    try:
        return bool(_resolve(model, name))
    except FieldDoesNotExist:
        return False


def _is_expandable(model, name):
    found = _resolve(model, name) if _is_lookup(model, name) else None
    return found and isinstance(found.field, models.ForeignKey) and not found.rest


def _unknown_names(model, endpoint_class):
    """Yield (attribute, name) of what class attributes name and is not there."""
    fields = {*_model_fields(model), *_pk_names(model)}
    managers = _tags_managers(model)
    operations = {*_OPERATIONS, *managers, *_custom_operations(endpoint_class)}
    is_lookup = functools.partial(_is_lookup, model)

    def is_shown(name):
        return name in fields or _adds(endpoint_class, name) or hasattr(model, name)

    def is_sortable(name):
        return is_lookup(name) and not _resolve(model, name).is_multiple

    def is_order(name):
        return not isinstance(name, str) or name == "?" or is_lookup(name.lstrip("-"))

    for attribute, is_known in (
        ("fields", is_shown),
        ("exclude", is_shown),
        ("readonly_fields", is_shown),
        ("immutable_fields", is_shown),
        ("expand", functools.partial(_is_expandable, model)),
        ("ordering", is_order),
        ("sortable_by", is_sortable),
        ("search_fields", lambda name: is_lookup(_search_name(name))),
        ("list_filter", is_lookup),
        ("operations", operations.__contains__),
    ):
        names = getattr(endpoint_class, attribute) or ()
        if isinstance(names, str) and names != "__all__":
            yield attribute, names  # Text in the place of a list.
        elif not isinstance(names, (bool, int, str)):
            yield from ((attribute, name) for name in names if not is_known(name))


def _check_names():
    """E002: class attributes that name what is not there."""
    for model, endpoint_class in _model_endpoints():
        for attribute, name in _unknown_names(model, endpoint_class):
            yield checks.Error(
                f"{endpoint_class.__name__}.{attribute} names {name!r}, which "
                f"{model._meta.label} does not have.",
                hint="Correct the name, or take it out.",
                obj=endpoint_class,
                id="ajax.E002",
            )


def _check_hidden_creates():
    """E003: an ad-hoc endpoint or form in the place where a model's create would be."""
    forms_at = {key[1:] for key in endpoint._paths if key[0] is FormEndpoint}
    hiding = _discovery.functions.keys() | forms_at
    for model, endpoint_class in _model_endpoints():
        offered = endpoint_class.operations
        if offered is None or "create" in offered:
            for where in hiding.intersection(_paths_of(model, endpoint_class)):
                yield checks.Error(
                    f"The ad-hoc endpoint or form at {'/'.join(where)}.json hides the "
                    f"create of {model._meta.label}.",
                    hint="Rename it, or leave it out of __all__.",
                    obj=endpoint_class,
                    id="ajax.E003",
                )


def _check_copies():
    """E004: a second copy of this file, with registries of its own."""
    this = sys.modules[__name__]
    for name, module in sorted(sys.modules.items()):
        found = getattr(module, "__dict__", {})
        is_other = module is not this and found.get("__name__") == name != "__main__"
        if is_other and "AjaxConfig" in found and "ModelEndpoint" in found:
            yield checks.Error(
                f"{__name__} is also imported as {name}.",
                hint=f"Import it as {__name__}: each copy has its own registry.",
                id="ajax.E004",
            )


def _shown_by_expansion(plan):
    for part in plan.parts:
        if isinstance(part, (_Joined, _Fetched)):
            inner = part.plan if isinstance(part, _Joined) else part.source.plan
            yield inner.model
            yield from _shown_by_expansion(inner)


def _check_expansions():
    """W001: a model shown whole by expansion, though nobody said what it may show."""
    if any([*_unknown_names(*each)] for each in _model_endpoints()):
        return  # No plan can be made; E002 says why.
    for model, endpoint_class in _model_endpoints():
        shown = _shown_by_expansion(endpoint.plan(model, endpoint_class, has_user=True))
        for each in dict.fromkeys(shown):
            is_said = encoder.find(each) or _find(endpoint._registry, each)
            if not (is_said or _is_user_model(each)):
                yield checks.Warning(
                    f"{endpoint_class.__name__} of {model._meta.label} shows "
                    f"{each._meta.label} whole.",
                    hint='Register an endpoint (fields = "__all__" says yes, all) or '
                    f"an encoder for {each.__name__}, or leave it out of `expand`.",
                    obj=endpoint_class,
                    id="ajax.W001",
                )


def _check_transactions():
    """W002: ATOMIC_REQUESTS on SQLite, where a request then reads before it writes."""
    for alias in connections:
        connection = connections[alias]
        options = connection.settings_dict["OPTIONS"]
        mode = str(options.get("transaction_mode")).upper()
        is_atomic = connection.settings_dict["ATOMIC_REQUESTS"]
        if connection.vendor == "sqlite" and is_atomic and mode != "IMMEDIATE":
            yield checks.Warning(
                f"Under ATOMIC_REQUESTS, concurrent writers of {alias!r} will meet "
                "“database is locked”.",
                hint="Set OPTIONS['transaction_mode'] to 'IMMEDIATE'.",
                id="ajax.W002",
            )


def _check_totals():
    """W003: records that can_get hides, but that still count in `total`."""
    for model, endpoint_class in _model_endpoints():
        offered = endpoint_class.operations
        lists = offered is None or {"list", *_tags_managers(model)} & {*offered}
        overrides = functools.partial(_overrides, endpoint_class)
        if lists and overrides("can_get") and not overrides("get_queryset"):
            yield checks.Warning(
                f"{endpoint_class.__name__} overrides can_get, not get_queryset: what "
                "it refuses still shows in totals, of searches and filters too.",
                hint="Leave them out in get_queryset, or `list` out of operations.",
                obj=endpoint_class,
                id="ajax.W003",
            )


def check_ajax(app_configs=None, **kwargs):
    """Return what Django's system checks have to say about the project's endpoints."""
    found = [*_check_discovery(), *_check_copies(), *_check_transactions()]
    if not _discovery.error:
        found += [*_check_names(), *_check_hidden_creates()]
        found += [*_check_expansions(), *_check_totals()]
    return found


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


def _demo_settings():
    """Configure Django for the demo: a database in memory, on the loopback only."""
    from django.utils.crypto import get_random_string

    taggit = ["taggit"] if importlib.util.find_spec("taggit") else []
    settings.configure(
        DEBUG=True,
        SECRET_KEY=get_random_string(50),
        ALLOWED_HOSTS=["127.0.0.1", "localhost", "[::1]"],
        ROOT_URLCONF="demo",
        USE_TZ=True,
        MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware", "demo.log_in"],
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            *taggit,
            __name__,
            "demo",
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                # Shared by the server's threads; each would get a :memory: of its own.
                "NAME": "file:ajax-demo?mode=memory&cache=shared",
            }
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )


def _demo_module(name, **contents):
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, None))
    vars(module).update(contents)
    sys.modules[name] = module
    return module


def _demo_models():
    """Define the demo's models."""
    from django.contrib.auth.models import User

    class Category(models.Model):
        title = models.CharField(max_length=100)

        class Meta:
            app_label = "demo"

    class Post(models.Model):
        category = models.ForeignKey(Category, models.CASCADE)
        author = models.ForeignKey(User, models.CASCADE)
        title = models.CharField(max_length=200)
        created = models.DateTimeField(auto_now_add=True)
        liked_by = models.ManyToManyField(User, related_name="likes", blank=True)
        if apps.is_installed("taggit"):
            from taggit.managers import TaggableManager

            tags = TaggableManager(blank=True)

        class Meta:
            app_label = "demo"
            ordering = ["-created"]

    return Category, Post


def _demo_endpoints(category_model, post_model):
    """Serve the demo's models."""

    @register(category_model)
    class CategoryEndpoint(ModelEndpoint):
        def can_list(self, user):
            return True

    @register(post_model)
    class PostEndpoint(CategoryEndpoint):
        readonly_fields = ["author"]
        search_fields = ["title"]
        sortable_by = ["title", "created"]
        list_filter = ["category"]

        def prepare_record(self, request, record, created):
            if created:
                record.author = request.user


def _demo_data(category_model, post_model):
    """Create the demo's tables and records."""
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)
    demo = User.objects.create(username="demo")
    titles = ["Ten minutes of work", "Tags without tears", "A page that saves itself"]
    for number, title in enumerate(titles):
        category = category_model.objects.create(title=["News", "How to"][number % 2])
        post = post_model.objects.create(category=category, author=demo, title=title)
        post.liked_by.add(demo)
        if apps.is_installed("taggit"):
            post.tags.add("django", ["ajax", "json"][number % 2])
    return demo


def _demo_site():
    """Build the demo project: its module, URLs and data."""
    import django
    from django.middleware.csrf import get_token
    from django.urls import include

    def index(request):
        return HttpResponse(_DEMO_PAGE.replace("%s", get_token(request)))

    # Who meets a lock of a shared memory database fails at once, without waiting.
    one_by_one = threading.Lock()

    def log_in(get_response):
        def logged_in(request):
            request.user = site.user
            with one_by_one:
                return get_response(request)

        return logged_in

    def whoami(request):
        return {"username": request.user.username}

    whoami.__module__ = "demo.endpoints"
    site = _demo_module("demo", log_in=log_in, __path__=[__file__])
    _demo_module("demo.endpoints", whoami=whoami)
    _demo_module("demo.models")
    django.setup()
    demo_models = _demo_models()
    _demo_endpoints(*demo_models)
    site.user = _demo_data(*demo_models)
    site.urlpatterns = [path("", index), path("ajax/", include(__name__))]


def main(argv=None):
    """Serve the demo project on 127.0.0.1 until Ctrl-C; return the exit status."""
    import argparse
    import time

    from django.utils.crypto import get_random_string

    parser = argparse.ArgumentParser(prog="python -m ajax", description="Serve a demo.")
    parser.add_argument(
        "--port", type=int, default=8000, help="8000 by default, 0 for any"
    )
    port = parser.parse_args(argv).port
    _demo_settings()
    _demo_site()
    from django.core.servers.basehttp import (
        ThreadedWSGIServer,
        WSGIRequestHandler,
        get_internal_wsgi_application,
    )

    try:
        server = ThreadedWSGIServer(("127.0.0.1", port), WSGIRequestHandler)
    except (OSError, OverflowError) as error:
        print(f"Port {port} cannot be used ({error}); try another with --port.")
        return 1
    server.set_app(get_internal_wsgi_application())
    url, token = f"http://127.0.0.1:{server.server_port}/", get_random_string(32)
    print(f"The demo is at {url} (Ctrl-C ends it). From another shell:\n")
    send = f"curl -b csrftoken={token} -H X-CSRFToken:{token} -d ''"
    print(f"{send} {url}ajax/demo/post/1/get.json", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
        time.sleep(0.2)  # Python must not end while a thread writes its log line.
    return 0


if __name__ == "__main__":
    # By its real name: as __main__ it would be a second copy, with its own registries.
    sys.exit(import_module(__spec__.name if __spec__ else "ajax").main())
