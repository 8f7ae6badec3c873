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

The life of a request is the function `dispatch`: resolve the path, check CSRF, let the
endpoint authenticate the user, read the body, run it, and respond; what is raised on
the way becomes a JSON error in `_error_response`. What a model looks like, and the
queries that read it, come from one `_Plan`, kept until something is registered.

A few words mean one thing here. What clients send is *sent*. A *plan* says what of a
model is shown at one place of a reply; it consists of *parts*, one for each key. A
*model endpoint* is an instance of a model's endpoint class within a request. Records
are encoded together, as a *batch*, and written as a *draft*. A model is *closed* if
only its pk may be shown.

Read down for definitions, up to follow a request.
"""

import binascii
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
import types
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from asgiref.sync import async_to_sync
from django import forms
from django.apps import AppConfig, apps
from django.conf import settings
from django.contrib.auth import get_permission_codename
from django.contrib.auth.decorators import login_not_required
from django.core import checks
from django.core import exceptions as core_exceptions
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.files import File
from django.core.signals import got_request_exception
from django.db import connections, models, router, transaction
from django.db.models import Count, F, OuterRef, Q, Subquery
from django.db.models.expressions import RawSQL
from django.db.models.fields.files import FieldFile
from django.db.models.functions import Cast
from django.db.utils import DatabaseError, DataError, IntegrityError, OperationalError
from django.dispatch import Signal
from django.forms.utils import from_current_timezone
from django.http import Http404, HttpResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware, get_token
from django.middleware.http import ConditionalGetMiddleware
from django.shortcuts import resolve_url
from django.urls import include, path, re_path
from django.utils import timezone
from django.utils.autoreload import autoreload_started
from django.utils.choices import flatten_choices
from django.utils.datastructures import MultiValueDict
from django.utils.duration import duration_iso_string
from django.utils.functional import Promise, cached_property
from django.utils.html import escape
from django.utils.log import log_response
from django.utils.module_loading import import_string, module_has_submodule
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from django.views.generic import RedirectView

__version__ = "1.1.0"

__all__ = [
    "AJAXError", "AjaxConfig", "AlreadyRegistered", "BaseAuthentication",
    "BaseEndpoint", "DefaultEncoder", "EnvelopedResponse", "ExcludeEncoder",
    "FormEndpoint", "HTMLEscapeEncoder", "IncludeEncoder", "ModelEndpoint",
    "NotRegistered", "ajax_created", "ajax_deleted", "ajax_updated", "app_name",
    "encoder", "endpoint", "json_response", "login_required", "register", "urlpatterns",
]  # fmt: skip

app_name = "ajax"


# --- Limits ---------------------------------------------------------------------------

_MAX_JSON_DEPTH = 64
_MAX_TAGS = 100
_MAX_MEMBERS = 1000
_MAX_FILTER_VALUES = 100
_MAX_FILTER_LENGTH = 1000
_MAX_SEARCH_WORDS = 10
_MAX_SORT_KEYS = 10
_MAX_EXPANSION = 5
_MAX_EXPANDED = 100
_MAX_UNKNOWN_KEYS = 20
#: SQLite joins at most 64 tables; relations beyond this many get queries of their own.
_MAX_JOINS = 40
#: JavaScript's Number.MAX_SAFE_INTEGER: larger integers lose digits there.
_MAX_SAFE_INTEGER = 2**53 - 1


# --- Errors ---------------------------------------------------------------------------


class AlreadyRegistered(Exception):
    """The model or form, or its path, is registered already."""


class NotRegistered(Exception):
    """The model or form is not registered."""


class AJAXError(Exception):
    """An error reply: raise it or return it. `code` is the HTTP status (400 to 599),
    `message` is for the user, other keywords are added to the reply's top level."""

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
        data = {"code": self.code, "message": str(self.msg)}
        answer = {"success": False, "data": data, **_beside_data(self.extra)}
        response = _json_response(_dump(answer), self.code)
        if self.code == 405:
            response["Allow"] = "POST"
        return response


#: Default messages, for exceptions whose own text is empty or private.
_MESSAGES = {
    400: gettext_lazy("Bad request."),
    403: gettext_lazy("Access to endpoint is forbidden"),
    404: gettext_lazy("Not found."),
    409: gettext_lazy("The record conflicts with another one, is in use, or is gone."),
    413: gettext_lazy("The request is too large."),
}


def _hint(text):
    """Return a hint for the site's developer as keywords of an AJAXError, if DEBUG."""
    return {"hint": text} if settings.DEBUG else {}


def _invalid(errors):
    return AJAXError(400, _("Could not save model."), errors=errors)


def _errors_by_field(error):
    """Return the messages of a ValidationError, whatever it was made of, by field."""
    return ValidationError(error.update_error_dict({})).message_dict


def _find_close(name, known, likeness=0.6):
    """Return the name that may have been meant, None if nothing is near."""
    # The time that difflib takes is quadratic in the length.
    close = difflib.get_close_matches(name[:100], known, 1, likeness)
    return close[0] if close else None


#: What other exceptions are answered as: kinds, status, whether clients see the text.
_STATUSES = (
    (core_exceptions.RequestDataTooBig, 413, True),
    (core_exceptions.TooManyFieldsSent, 413, True),
    (core_exceptions.TooManyFilesSent, 413, True),
    (core_exceptions.SuspiciousFileOperation, 400, False),  # It names a path.
    (Http404, 404, True),
    (core_exceptions.PermissionDenied, 403, True),
    ((core_exceptions.SuspiciousOperation, core_exceptions.BadRequest), 400, True),
    ((MultiPartParserError, UnreadablePostError), 400, True),
    (IntegrityError, 409, False),
    # SQLite's driver raises OverflowError for a number beyond its columns.
    ((DataError, OverflowError), 400, False),
    (getattr(core_exceptions, "ObjectNotUpdated", ()), 409, False),
)
#: How databases say that somebody else held a lock for too long.
_LOCKED = re.compile(r"is locked|lock timeout|lock wait|deadlock|serialize", re.I)


def _as_ajax_error(error):
    """Return the AJAXError that an exception stands for, None if nobody expected it."""
    if isinstance(error, AJAXError):
        return error
    if isinstance(error, ValidationError):
        errors = _errors_by_field(error)
        return AJAXError(400, " ".join(error.messages), errors=errors)
    for kinds, code, is_public in _STATUSES:
        if isinstance(error, kinds):
            # A Resolver404 carries the URLconf, which is nobody's business.
            said = is_public and error.args and isinstance(error.args[0], str | Promise)
            text = str(error) if said else ""
            return AJAXError(code, text or _MESSAGES[code])
    if isinstance(error, OperationalError):
        code = getattr(error.__cause__, "sqlstate", None) or str(error)
        # What is beyond PostgreSQL's index, or MariaDB's character set and UUIDs.
        if re.match(r"54000|\((1267|1292|1366),", code):
            return AJAXError(400, _MESSAGES[400])
        if _LOCKED.search(str(error)):
            return AJAXError(503, _("The database is busy; try again."))
    if type(error) is DatabaseError and error.__cause__ is None:
        # What Django 5.2 raises where later versions have ObjectNotUpdated.
        return AJAXError(409, _MESSAGES[409])
    return None


def _error_response(request, error):
    """Return any exception as a JSON response."""
    try:
        answer = _as_ajax_error(error)
        if answer is None:
            raise error
        response = answer.get_response()
    except Exception as unexpected:
        return _report(request, unexpected)
    if isinstance(error, (DatabaseError, OverflowError)):
        # Django escapes arguments of logs; this one may quote the client.
        said = (response.reason_phrase, request.path, str(error))
        log_response("%s: %s: %s", *said, response=response, request=request)
    return response


def _report(request, error):
    """Return an unexpected exception as a response, told of as Django would."""
    got_request_exception.send(sender=None, request=request)
    message, extra = _("Internal server error."), {}
    if settings.DEBUG:
        frames = traceback.extract_tb(error.__traceback__)
        keys = ("file", "line", "in", "code")
        extra["traceback"] = [dict(zip(keys, each, strict=True)) for each in frames]
        # Not str(): that may be what failed.
        message = "".join(traceback.format_exception_only(error)).strip()
    response = AJAXError(500, message, **extra).get_response()
    said = {"response": response, "request": request, "exception": error}
    log_response("%s: %s", response.reason_phrase, request.path, **said)
    return response


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


def _file_url(file):
    """Return a FieldFile's URL, None if it is empty or its storage has no URLs."""
    with contextlib.suppress(NotImplementedError):
        return file.url if file else None


#: How values become JSON, by class; a subclass follows its nearest base listed here.
_CONVERSIONS = {
    type(None): lambda value: None,
    bool: bool,
    str: str.__str__,
    int: lambda v: int(v) if abs(v) <= _MAX_SAFE_INTEGER else str(int(v)),
    float: lambda value: float(value) if math.isfinite(value) else None,
    enum.Enum: lambda value: _to_plain(value.value),
    datetime.datetime: lambda value: value.isoformat().replace("+00:00", "Z"),
    datetime.date: lambda value: value.isoformat(),
    datetime.time: lambda value: value.isoformat(),
    datetime.timedelta: duration_iso_string,
    decimal.Decimal: lambda value: str(value) if value.is_finite() else None,
    uuid.UUID: str,
    Promise: str,
    **dict.fromkeys((bytes, bytearray, memoryview), lambda v: b64encode(v).decode()),
    FieldFile: _file_url,
    File: lambda value: value.name,
}


#: The classes of the values that are plain already.
_PLAIN = {str, bool, type(None)}


def _to_plain(value, encode=None):
    """Convert what an endpoint returned to plain dicts, lists and scalars; records by
    `encode`, or _encode_records(). Raise TypeError for what JSON cannot hold."""
    exact = type(value)
    if exact in _PLAIN:
        return value
    for kind in exact.__mro__ if exact not in (dict, list) else ():
        if kind in _CONVERSIONS:
            return _CONVERSIONS[kind](value)
    if isinstance(value, models.Model):
        return (encode or _encode_records)([value])[0]
    if exact is dict or isinstance(value, Mapping):
        pairs = value.items()
        return {_to_plain(key): _to_plain(item, encode) for key, item in pairs}
    if exact is list or isinstance(value, Iterable):
        items = list(value)
        records = [item for item in items if isinstance(item, models.Model)]
        encoded = iter((encode or _encode_records)(records)) if records else ()
        return [
            next(encoded) if isinstance(item, models.Model) else _to_plain(item, encode)
            for item in items
        ]
    if hasattr(value, "lower_inc"):
        return str(value)  # PostgreSQL's ranges, from whichever driver.
    raise TypeError(f"{type(value).__name__} cannot be encoded as JSON.")


def _escape_texts(value):
    if isinstance(value, str):
        return str(escape(value))
    if isinstance(value, dict):
        return {_escape_texts(key): _escape_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape_texts(item) for item in value]
    return value


# As ASCII: a lone surrogate could not be encoded as UTF-8.
_JSON = {"allow_nan": False, "default": _to_plain}
#: Plain data as JSON text.
_dump = json.JSONEncoder(separators=(",", ":"), **_JSON).encode
#: The same with NUL, which JSON text never holds, between items: they can be split.
_dump_apart = json.JSONEncoder(separators=("\0", ":"), **_JSON).encode


def _dump_each(values):
    """Return each of some plain values as JSON text."""
    texts = _dump_apart(values)[1:-1].split("\0")
    if len(texts) != len(values):
        # Some are lists or dicts of their own.
        texts = [_dump(value) for value in values]
    return texts


def _json_response(text, status=200):
    return HttpResponse(text, content_type="application/json", status=status)


def _beside_data(extra):
    """Return what goes beside `success` and `data` in an answer, as plain data."""
    return {k: v for k, v in _to_plain(extra).items() if k not in ("success", "data")}


def _success_response(result, request):
    """Return an endpoint's result as an HttpResponse; raise a returned AJAXError."""
    if isinstance(result, HttpResponseBase):
        return result
    if isinstance(result, AJAXError):
        raise result
    before, after = '{"success":true,"data":', "}"
    if isinstance(result, EnvelopedResponse):
        if metadata := _beside_data(result.metadata):
            after = f",{_dump(metadata)[1:]}"
        if isinstance(result, _Page) and "data" not in vars(result):
            return _json_response(f"{before}[{','.join(result.texts)}]{after}")
        result = result.data
    encode = partial(_encode_records, request=request)
    return _json_response(f"{before}{_dump(_to_plain(result, encode))}{after}")


# --- Models and their fields ----------------------------------------------------------


def _is_user_model(model):
    # Imported on use: while apps load, not even an abstract model can be made.
    from django.contrib.auth.base_user import AbstractBaseUser

    return issubclass(model, AbstractBaseUser)


def _is_special(field):
    """Whether a field is PostgreSQL's (ranges, hstore, search vectors; not arrays).
    Those are shown but cannot be written."""
    names = {kind.__name__ for kind in type(field).__mro__}
    return hasattr(field, "range_type") or names & {"HStoreField", "SearchVectorField"}


def _is_tags_manager(field):
    if not apps.is_installed("taggit"):
        return False
    from taggit.managers import TaggableManager

    return isinstance(field, TaggableManager)


# Two words about keys. Where a primary key is a foreign key (to a parent model, or a
# OneToOneField), the field at the end of that chain is the *root key*: it says how a pk
# is read. A field that repeats the pk is an *own key*, and shown once, as "pk".


def _is_parent_link(field):
    return field.is_relation and field.remote_field.parent_link


def _is_own_key(field):
    return _is_parent_link(field) if field.is_relation else field.primary_key


_TEXT_FIELDS = (models.CharField, models.TextField)


def _root_key(model):
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


def _select_visible(model, endpoint_class):
    """Return, in order, the names that an endpoint class lets clients see."""
    every = _model_fields(model)
    fields = endpoint_class.fields
    if fields is None or fields == "__all__":
        names = [name for name in every if name != "password"]
    else:
        extras = [n for n in fields if n not in every and n not in _pk_names(model)]
        names = [name for name in every if name in fields] + extras
    if endpoint.is_closed(model) and not encoder.find(model):
        return []
    return [name for name in names if name not in endpoint_class.exclude]


def _select_shown(model, endpoint_class, chosen):
    """Return the names that are shown; what may be written is chosen from these."""
    names = _select_visible(model, endpoint_class)
    if endpoint_class.fields is None and _is_user_model(model):
        if not isinstance(chosen, (IncludeEncoder, ExcludeEncoder)):
            names = [name for name in names if name == model.USERNAME_FIELD]
    return chosen._select(names) if chosen else names


def _levels(expand):
    """Return an `expand` attribute as a number of levels, or a tree of names."""
    if isinstance(expand, int):
        return _MAX_EXPANSION if expand is True else int(expand)
    tree = {}
    for name in expand:
        functools.reduce(lambda at, key: at.setdefault(key, {}), name.split("__"), tree)
    return tree


def _overrides(endpoint_class, hook):
    return getattr(endpoint_class, hook) is not getattr(ModelEndpoint, hook)


def _is_narrowed(model, endpoint_class):
    """Whether a custom manager or get_queryset() decides which records exist."""
    own, default = type(model._default_manager), models.Manager
    if own.get_queryset is not default.get_queryset or own.all is not default.all:
        return True
    return _overrides(endpoint_class, "get_queryset")


def _needs_instances(model):
    """Whether creating instances runs code of the project's: then rows will not do."""
    fields = model._meta.concrete_fields
    descriptors = (type(inspect.getattr_static(model, f.attname)) for f in fields)
    listened = (models.signals.pre_init, models.signals.post_init)
    return (
        any(signal.has_listeners(model) for signal in listened)
        or model.__init__ is not models.Model.__init__
        or model.from_db.__func__ is not models.Model.from_db.__func__
        or not all(each.__module__.startswith("django.") for each in descriptors)
    )


class _Batch:
    """Records of one model that are encoded together, column by column.

    `model_endpoint` is the endpoint that speaks for the model; `found` is what one part
    has read and others want too.
    """

    def __init__(self, using, model_endpoint=None):
        self.using = using
        self.model_endpoint = model_endpoint
        self.found = {}

    @property
    def pks(self):
        return self.column(0)


class _Rows(_Batch):
    """Records as the rows of a query, turned into columns."""

    def __init__(self, columns, using, model_endpoint=None, unconverted=None):
        """Keep columns; `unconverted` by position are those that still have to become
        what their fields give: only those that are asked for will."""
        super().__init__(using, model_endpoint)
        self.columns = columns
        self.unconverted = unconverted or {}

    def column(self, position):
        """Return one column, as its field gives it."""
        if not self.columns:
            return []
        if expression := self.unconverted.pop(position, None):
            connection = connections[self.using]
            steps = connection.ops.get_db_converters(expression)
            for step in steps + expression.get_db_converters(connection):
                values = self.columns[position]
                values = [step(value, expression, connection) for value in values]
                self.columns[position] = values
        return self.columns[position]

    def rows(self):
        """Return all rows as tuples."""
        return zip(*map(self.column, range(len(self.columns))), strict=True)

    def split(self, part):
        """Return the key of each record's joined record, and those that are distinct:
        their keys, and a batch of them."""
        start, stop = part.start, part.start + len(part.lookups)
        keys, columns = self.columns[start], self.columns[start:stop]
        rows = dict(zip(keys, zip(*columns, strict=True), strict=True))
        rows.pop(None, None)
        within = [n for n in self.unconverted if start <= n < stop]
        later = {n - start: self.unconverted[n] for n in within}
        columns = list(zip(*rows.values(), strict=True))
        return keys, rows, _Rows(columns, self.using, self.model_endpoint, later)


class _Instances(_Batch):
    """Records as instances, where somebody's code wants them."""

    def __init__(self, plan, records, using, model_endpoint):
        super().__init__(using, model_endpoint)
        self.plan = plan
        self.records = records
        self.columns = {}

    def column(self, position):
        """Return the values of one attribute."""
        if position not in self.columns:
            name = self.plan.lookups[position]
            self.columns[position] = [_get_value(each, name) for each in self.records]
        return self.columns[position]

    def split(self, part):
        """Return the same as `_Rows.split`, of the records that the user may get."""
        related = [part.field.get_cached_value(each, None) for each in self.records]
        distinct = {each.pk: each for each in related if each is not None}
        inner = part.related.reader.make_batch(
            [*distinct.values()], self.using, self.model_endpoint.request
        )
        inner = part.related.reader.drop_refused(inner)
        # Tuples, since the pk of one that is not saved is None, too.
        keys = [None if each is None else (each.pk,) for each in related]
        return keys, [(pk,) for pk in inner.pks], inner


#: The placeholder in a kept query for a value that is given at each run.
_GIVEN = RawSQL("%s", [None])


class _Statement:
    """A values_list() whose SQL is compiled once for each database, and kept.

    Compiling is a third of the work of a `get`, and more of a `create`. This class is
    the only one that uses the query's compiler, which is private API.
    """

    def __init__(self, make, *given):
        """`make` returns the query; `given` are the fields it compares with _GIVEN. The
        last may be given several values at a run, and then matches any of them."""
        self.make = make
        self.given = given
        self.made = {}

    def compile(self, using):
        """Return its SQL, the parameters, and what is converted by position."""
        if using not in self.made:
            compiler = self.make().query.get_compiler(using)
            sql, parameters = compiler.as_sql()
            selected = [each[0] for each in compiler.select]
            unconverted = {n: selected[n] for n in compiler.get_converters(selected)}
            self.made[using] = sql, parameters, unconverted
        return self.made[using]

    def load(self, using, model_endpoint=None, values=(), limits=None):
        """Run it with the given values; return the rows as a batch."""
        connection = connections[using]
        try:
            sql, parameters, unconverted = self.compile(using)
        except core_exceptions.EmptyResultSet:
            return _Rows([], using, model_endpoint)
        if values:
            if more := len(values) - len(self.given):
                before, _equals, after = sql.rpartition("= (%s)")
                sql = f"{before}IN (%s{', %s' * more}){after}"
            pairs = zip((*self.given, *self.given[-1:] * more), values, strict=True)
            parameters = [f.get_db_prep_value(v, connection) for f, v in pairs]
        if limits:
            sql = f"{sql} {connection.ops.limit_offset_sql(*limits)}"
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            columns = list(zip(*cursor.fetchall(), strict=True))
        return _Rows(columns, using, model_endpoint, dict(unconverted))


def _in_order(queryset, order):
    """Order a queryset, by default as it is, and then by pk: pages never overlap."""
    own = queryset.query.order_by or queryset.model._meta.ordering
    return queryset.order_by(*(order or own), "pk")


# --- What a record is made of: its parts ----------------------------------------------


class _Part:
    """One key of a record: how it is shown, described, and read of what was sent."""

    #: The columns that it wants of a query, as for values_list(); the plan puts them
    #: at the position `start`.
    lookups = ()
    start = None
    #: Whether it wants instances.
    needs_records = False

    def __init__(self, plan, name, field=None):
        self.plan = plan
        self.name = name
        self.field = field

    def encode(self, batch):
        """Return the JSON text of the key for each record of a batch."""

    def describe(self):
        """Return the schema of what is shown."""
        return _describe_field(self.field)

    def read(self, draft, sent):
        """Read what was sent into a draft; raise ValidationError if it will not do."""


class _Column(_Part):
    """A key whose value stands in a column."""

    def __init__(self, plan, name, field, lookup=None):
        super().__init__(plan, name, field)
        self.lookups = [lookup or field.attname]

    def encode(self, batch):
        return self.plan.dump(batch.column(self.start))

    def read(self, draft, sent):
        setattr(draft.record, self.field.attname, _read_value(self.field, sent))


class _JSONColumn(_Column):
    """A JSONField, which holds what needs no conversion."""

    def encode(self, batch):
        return self.plan.dump_plain(batch.column(self.start))


class _FileColumn(_Column):
    """A file, given as its URL."""

    def encode(self, batch):
        make = partial(self.field.attr_class, None, self.field)
        values = batch.column(self.start)
        files = [v if isinstance(v, FieldFile) else make(v) for v in values]
        return self.plan.dump(files)

    def read(self, draft, sent):
        self.field.save_form_data(draft.record, _read_file(self.field, sent))


class _ForeignKey(_Column):
    """A foreign key given as a pk, which is looked up if it refers to another field."""

    def __init__(self, plan, field):
        super().__init__(plan, field.name, field)
        self.target = field.target_field

    def find_pks(self, batch):
        keys = batch.column(self.start)
        if self.target.primary_key:
            return keys
        if self not in batch.found:
            rows = self.field.remote_field.model._base_manager.using(batch.using)
            rows = rows.filter(**{f"{self.target.name}__in": {*keys} - {None}})
            batch.found[self] = dict(rows.values_list(self.target.name, "pk"))
        return [batch.found[self].get(key) for key in keys]

    def encode(self, batch):
        return self.plan.dump(self.find_pks(batch))

    def read(self, draft, sent):
        record, value = draft.record, _read_single(self.field, sent)
        if value is None:
            setattr(record, self.field.name, None)
            return
        pk = _read_pk(self.field.remote_field.model, value)
        is_pk = self.target.primary_key and draft.stored is not None
        if is_pk and pk == getattr(record, self.field.attname):
            return  # What is there already may stay: a record can be sent back whole.
        if self.can_refer(draft, pk):
            setattr(record, self.field.attname, pk)
        else:
            found = draft.find_related(self.field, [pk])
            setattr(record, self.field.name, found[pk])
        self.field.run_validators(getattr(record, self.field.attname))
        draft.found[self.field] = getattr(record, self.field.attname)

    def can_refer(self, draft, pk):
        """Whether the record with a pk may be referred to, asked by a kept statement;
        False too where only a query of somebody's own can say."""
        overridden = _overrides(type(draft.model_endpoint), "get_field_queryset")
        if overridden or self.field.get_limit_choices_to():
            return False
        plan = _get_plan(self.field.remote_field.model, None, True)
        if plan.is_closed or not self.target.primary_key:
            return False
        using = router.db_for_write(plan.model)
        found = plan.reader.load_one(
            pk, plan.reader.make_endpoint(draft.request), using
        )
        return bool(plan.reader.drop_refused(found).pks)


class _ExpandedKey(_ForeignKey):
    """A foreign key shown as the whole record, by the plan `related`."""

    def __init__(self, plan, field, related):
        super().__init__(plan, field)
        self.related = related

    def find_texts(self, batch):
        """Return what is shown of each record's related one, None for none."""

    def encode(self, batch):
        texts = self.find_texts(batch)
        if None not in texts:
            return texts
        if not self.related.hides:
            return [text or "null" for text in texts]
        # The record may exist, hidden from this user: show only its pk.
        pks = self.plan.dump(self.find_pks(batch))
        return [text or pk for text, pk in zip(texts, pks, strict=True)]

    def describe(self):
        types = _describe_field(self.field).get("type", ["string"])
        schema = self.related.describe()
        types = ("object", *(types if self.related.hides else ()), "null")
        return schema | {"type": [*dict.fromkeys(types)]}


class _JoinedKey(_ExpandedKey):
    """One that is read by a join; a record that several refer to is encoded once."""

    def __init__(self, plan, field, related):
        super().__init__(plan, field, related)
        self.lookups = [f"{field.name}__{each}" for each in related.lookups]
        self.joins = (field.name, *(f"{field.name}__{each}" for each in related.joins))
        self.needs_records = related.needs_records

    def find_pks(self, batch):
        related = [self.field.get_cached_value(each, None) for each in batch.records]
        return [getattr(each, "pk", None) for each in related]

    def find_texts(self, batch):
        keys, distinct, related = batch.split(self)
        found = dict(zip(distinct, self.related.encode(related), strict=True))
        return [found.get(key) for key in keys]


class _FetchedKey(_ExpandedKey):
    """One that is read by a query of its own. Keys to the same model with the same
    expansion are its `peers`, and share that query."""

    def __init__(self, plan, field, related, peers):
        super().__init__(plan, field, related)
        self.peers = peers
        peers.append(self)

    def find_texts(self, batch):
        if self.related not in batch.found:
            pks = {pk for peer in self.peers for pk in peer.find_pks(batch)}
            batch.found[self.related] = self.related.reader.fetch(pks - {None}, batch)
        return [batch.found[self.related].get(pk) for pk in self.find_pks(batch)]


class _Members(_Part):
    """A many-to-many relation, given as a list of pks."""

    def __init__(self, plan, field):
        super().__init__(plan, field.name, field)
        self.clean = plan.model._meta.pk.to_python
        self.source = f"{field.m2m_field_name()}__pk"
        target = f"{field.m2m_reverse_field_name()}__pk"
        through = field.remote_field.through._base_manager
        self.rows = through.values_list(self.source, target)

    def encode(self, batch):
        pks = [self.clean(pk) for pk in batch.pks]
        wanted = {f"{self.source}__in": {*pks} - {None}}
        members = {pk: {} for pk in pks}
        rows = self.rows.using(batch.using).filter(**wanted)
        for pk, member in sorted(row for row in rows if None not in row):
            members[pk][member] = None
        return self.plan.dump([[*members[pk]] for pk in pks])

    def read(self, draft, sent):
        values = _read_several(sent)
        if not values and not self.field.blank:
            raise ValidationError(self.field.error_messages["blank"])
        if len(values) > _MAX_MEMBERS:
            raise ValidationError(_("At most %s values.") % _MAX_MEMBERS)
        pks = {_read_pk(self.field.remote_field.model, each) for each in values}
        # What is there already may stay: a record can be sent back whole.
        there = ()
        if draft.stored is not None:
            there = getattr(draft.stored, self.name).values_list("pk", flat=True)
        draft.find_related(self.field, pks.difference(there))
        draft.relations[self.name] = pks


class _Tags(_Part):
    """The tags of a TaggableManager, as a list of {"pk", "name", "slug"}, read from the
    through table: taggit's own prefetch builds a queryset for every row."""

    template = '{"pk":%s,"name":%s,"slug":%s}'

    def __init__(self, plan, field):
        from taggit.models import CommonGenericTaggedItemBase

        super().__init__(plan, field.name, field)
        self.model = plan.model
        self.through = field.through
        self.is_generic = issubclass(self.through, CommonGenericTaggedItemBase)
        self.key = "object_id" if self.is_generic else "content_object_id"
        columns = ("pk", self.key, "tag_id", "tag__name", "tag__slug")
        signs = [("-" * n.startswith("-"), n.lstrip("-")) for n in field.ordering or ()]
        self.order = [f"{sign}tag__{name}" for sign, name in signs]
        rows = self.through._base_manager.values_list(*columns).order_by(*self.order)
        names = ("content_type",) * self.is_generic + (self.key,)
        *kind, key = map(self.through._meta.get_field, names)
        self.clean = key.to_python
        given = rows.filter(**dict.fromkeys(names, _GIVEN))
        self.rows = _Statement(lambda: given, *kind, key)
        # A generic key may be text where the model's pk is a number: cast it.
        root = _root_key(plan.model)
        is_alike = not isinstance(key, _TEXT_FIELDS) or isinstance(root, _TEXT_FIELDS)
        self.record_pk = F(self.key) if is_alike else Cast(self.key, root)
        self.outer_pk = OuterRef("pk") if is_alike else Cast(OuterRef("pk"), key)

    def get_kind(self):
        """Return the conditions that a generic through table holds the model's."""
        if not self.is_generic:
            return {}
        from django.contrib.contenttypes.models import ContentType

        return {"content_type": ContentType.objects.get_for_model(self.model)}

    def get_items(self, using=None):
        """Return the through table's rows of this model."""
        rows = self.through._base_manager.filter(**self.get_kind())
        return rows.using(using) if using else rows

    def match_any(self, value):
        """Return the condition that a record has any of the tags that were sent."""
        any_case = getattr(settings, "TAGGIT_CASE_INSENSITIVE", False)
        lookup = f"tag__name__{'iexact' if any_case else 'exact'}"
        names = [(lookup, name) for name in _read_tags(self.field, value)]
        if not names:
            return Q(pk__in=[])
        items = self.get_items().filter(Q.create(names, connector=Q.OR))
        return Q(pk__in=items.values_list(self.record_pk))

    def rank(self, queryset, pk, using):
        """Narrow a queryset to what shares tags with a record, most shared first."""
        items = self.get_items(using)
        mine = items.filter(**{self.key: pk}).values("tag_id")
        shared = items.filter(tag_id__in=mine)
        of_one = shared.filter(**{self.key: self.outer_pk}).order_by()
        count = of_one.values(self.key).values(shared=Count("pk"))
        found = queryset.filter(pk__in=shared.values_list(self.record_pk))
        return found.order_by(Subquery(count).desc(), "pk")

    def load_rows(self, pks, using):
        kinds = [kind.pk for kind in self.get_kind().values()]
        rows = self.rows.load(using, values=[*kinds, *pks]).rows() if pks else ()
        # Sort in Python: ORDER BY the pk makes SQLite scan the whole table.
        return [*rows] if self.order else sorted(rows)

    def encode(self, batch):
        return self.encode_tags(batch.pks, batch.using)

    def encode_tags(self, pks, using):
        """Return the JSON text of the tags of each record."""
        pks = [self.clean(pk) for pk in pks]
        rows = self.load_rows({*pks} - {None}, using)
        known = {tag: (tag, name, slug) for _through, _pk, tag, name, slug in rows}
        columns = [self.plan.dump(each) for each in zip(*known.values(), strict=True)]
        written = map(self.template.__mod__, zip(*columns, strict=True))
        texts = dict(zip(known, written, strict=True))
        tags = {pk: [] for pk in pks}
        for _through, pk, tag, _name, _slug in rows:
            tags[pk].append(texts[tag])
        return [f"[{','.join(tags[pk])}]" for pk in pks]

    def read(self, draft, sent):
        draft.relations[self.name] = _read_tags(self.field, sent)


def _defines(endpoint_class, name):
    """Whether an endpoint class itself has a name: ModelEndpoint's `user` is none."""
    return hasattr(endpoint_class, name) and not hasattr(ModelEndpoint, name)


class _Extra(_Part):
    """A property or method of the endpoint or the model that `fields` names."""

    needs_records = True

    def __init__(self, plan, name):
        super().__init__(plan, name)
        self.plans = {}
        self.of_endpoint = _defines(plan.endpoint_class, name)

    def encode(self, batch):
        values = [self.get_value(each, batch.model_endpoint) for each in batch.records]
        return self.plan.dump(_to_plain(values, partial(self.expand, batch)))

    def describe(self):
        return {}

    def get_value(self, record, model_endpoint):
        value = getattr(model_endpoint if self.of_endpoint else record, self.name)
        if callable(value):
            value = value(record) if self.of_endpoint else value()
        return value

    def find_plan(self, model):
        if model not in self.plans:
            self.plans[model] = self.plan.find_plan(self.name, False, model)
        return self.plans[model]

    def expand(self, batch, records):
        """Return records that such a value gives as any expansion shows them."""
        shown = {}
        for model in {record._meta.model for record in records}:
            pks = {r.pk for r in records if r._meta.model is model} - {None}
            plan = self.find_plan(model)
            # Clients may choose a GenericForeignKey's model: show only configured ones.
            if plan and (plan.is_configured or _is_user_model(model)):
                texts = plan.reader.fetch(pks, batch)
                shown |= {(model, pk): json.loads(text) for pk, text in texts.items()}
        keys = [(record._meta.model, record.pk) for record in records]
        return [shown.get(key, _to_plain(key[1])) for key in keys]


# --- How a model is read and written: the plan ----------------------------------------


class _Plan:
    """How one model is read and encoded at one place of an answer.

    Its `parts` each give the JSON text of one key; `lookups` are the columns they want,
    and `joins` the relations to select. Rows are read as tuples unless somebody's code
    needs instances (`needs_records`).
    """

    def __init__(
        self, model, endpoint_class=None, has_user=False, html_escape=False,
        chosen=None, levels=None, outer=None,
    ):  # fmt: skip
        _autodiscover()
        self.model = model
        self.endpoint_class = endpoint_class or endpoint.find(model)
        self.encoder = chosen or encoder.find(model)
        self.has_user = has_user
        # Who may see which records
        self.asks = has_user and _overrides(self.endpoint_class, "can_get")
        self.is_narrowed = _is_narrowed(model, self.endpoint_class)
        self.hides = self.asks or self.is_narrowed
        self.is_closed = endpoint.is_closed(model)
        has_encoder = self.encoder is not None
        self.is_configured = self.endpoint_class is not ModelEndpoint or has_encoder
        # What is escaped: an encoder's own code gets the texts as they are.
        self.is_custom = has_encoder and self.encoder._is_custom
        self.escapes = html_escape or getattr(self.encoder, "html_escape", False)
        self.html_escape = self.escapes and not self.is_custom
        # What is expanded, below what
        expand = self.endpoint_class.expand
        self.levels = _levels(expand) if levels is None else levels
        concrete = model._meta.concrete_model
        self.ancestors = (*outer.ancestors, concrete) if outer else (concrete,)
        #: The outermost plan counts the joins that are left, and what was expanded.
        self.top = outer.top if outer else self
        # A join would bypass the database routers.
        self.joins_left = 0 if settings.DATABASE_ROUTERS else _MAX_JOINS
        self.expanded = []
        self._make_parts()
        self.reader = _Reader(self)

    def _make_parts(self):
        self.peers = {}
        fields = _model_fields(self.model)
        names = _select_shown(self.model, self.endpoint_class, self.encoder)
        self.parts = [_Column(self, "pk", self.model._meta.pk, "pk")]
        self.parts += [self._make_part(name, fields.get(name)) for name in names]
        self.names = [part.name for part in self.parts]
        self.template = "{" + ",".join(f"{_dump(n)}:%s" for n in self.names) + "}"
        self.managers = {p.name: p for p in self.parts if isinstance(p, _Tags)}
        self.joined = [part for part in self.parts if isinstance(part, _JoinedKey)]
        self.joins = [join for part in self.joined for join in part.joins]
        self.lookups = []
        for part in self.parts:
            part.start = len(self.lookups)
            self.lookups += part.lookups
        self.needs_records = (
            self.is_custom
            or self.asks
            or _needs_instances(self.model)
            or any(part.needs_records for part in self.parts)
        )

    def _make_part(self, name, field):
        if field is None:
            return _Extra(self, name)
        if isinstance(field, models.ForeignKey):
            return self._make_key(field)
        if _is_tags_manager(field):
            return _Tags(self, field)
        if field.many_to_many:
            return _Members(self, field)
        if isinstance(field, models.FileField):
            return _FileColumn(self, name, field)
        if isinstance(field, models.JSONField):
            return _JSONColumn(self, name, field)
        return _Column(self, name, field)

    def _make_key(self, field):
        """Return the part for a foreign key. It is joined unless somebody says which
        records there are, no constraint guards it (a join would lose the row), or the
        joins are too many."""
        related = field.remote_field.model
        levels = self._find_levels(field.name, related)
        if levels is None:
            return _ForeignKey(self, field)
        tables = 1 + len(related._meta.all_parents)
        is_joined = field.db_constraint and self.top.joins_left >= tables
        if is_joined and not _is_narrowed(related, endpoint.find(related)):
            self.top.joins_left -= tables
            plan = self.find_plan(field.name, self.html_escape, related)
            return _JoinedKey(self, field, plan)
        key = (related, repr(levels))
        if key not in self.peers:
            plan = self.find_plan(field.name, self.html_escape, related)
            self.peers[key] = plan, []
        return _FetchedKey(self, field, *self.peers[key])

    def find_plan(self, name, html_escape, related):
        """Return the plan of the records that a name expands to, None for pks."""
        levels = self._find_levels(name, related)
        if levels is None:
            return None
        self.top.expanded.append(related)
        return _Plan(related, None, self.has_user, html_escape, None, levels, self)

    def _find_levels(self, name, related):
        """Return how far a relation is expanded, None if it stays a pk: because no
        levels are left, the model is closed, or its hooks want a user and have none."""
        endpoint_class = endpoint.find(related)
        hooks = ("get_queryset", "can_get")
        is_private = any(_overrides(endpoint_class, hook) for hook in hooks)
        if endpoint.is_closed(related) or is_private and not self.has_user:
            return None
        if len(self.top.expanded) >= _MAX_EXPANDED:
            return None
        if isinstance(self.levels, dict):
            return self.levels.get(name)
        if self.levels < 1 or related._meta.concrete_model in self.ancestors:
            return None
        levels = _levels(endpoint_class.expand)
        return levels if isinstance(levels, dict) else min(self.levels - 1, levels)

    @cached_property
    def writable(self):
        """The parts that clients may write, by the key they are sent under."""
        cls = self.endpoint_class
        if cls.fields is None and _is_user_model(self.model):
            return {}
        named = () if cls.fields in (None, "__all__") else cls.fields
        found = {
            part.name: part
            for part in self.parts[1:]
            if part.field and _is_writable(part.field, part.name in named)
        }
        never = {*cls.readonly_fields, *cls.immutable_fields, *cls.exclude}
        pk = self.model._meta.pk
        pk = _root_key(self.model) if _is_parent_link(pk) else pk
        keys = {pk.name, self.model._meta.pk.name, *_pk_names(self.model)}
        if keys & never:
            never |= keys
        elif keys & {*named} and not isinstance(pk, models.AutoField):
            is_relation = isinstance(pk, models.ForeignKey)
            part = _ForeignKey(self, pk) if is_relation else _Column(self, "pk", pk)
            found["pk"] = found[pk.name] = part
        return {name: part for name, part in found.items() if name not in never}

    def describe(self, is_written=False):
        """Return the schema of a record; what is only read is marked if it `is_written`
        too."""
        if self.is_custom:
            return {"type": "object"}
        found = {part.name: part.describe() for part in self.parts}
        for name in found if is_written else ():
            if name not in self.writable:
                found[name] = found[name] | {"readOnly": True}
        return _describe_object(found)

    # Encoding

    def encode(self, batch):
        """Return the JSON text of each record of a batch."""
        if not batch.pks:
            return []
        texts = self.encode_plainly(batch)
        return self._encode_custom(batch, texts) if self.is_custom else texts

    def encode_plainly(self, batch):
        """Return the JSON text of each record, without asking a custom encoder."""
        texts = [part.encode(batch) for part in self.parts]
        return list(map(self.template.__mod__, zip(*texts, strict=True)))

    def _encode_custom(self, batch, texts):
        """Let the model's encoder speak, within what its endpoint lets be seen."""
        texts = dict(zip(map(id, batch.records), texts, strict=True))
        token = _encoding.set((self.encoder, texts))
        try:
            given = [_to_plain(self.encoder.to_dict(each)) for each in batch.records]
        finally:
            _encoding.reset(token)
        hidden = self._hidden
        given = [{k: v for k, v in each.items() if k not in hidden} for each in given]
        return _dump_each(_escape_texts(given) if self.escapes else given)

    @cached_property
    def _hidden(self):
        """The keys of the model that its endpoint does not let be seen."""
        seen = _select_visible(self.model, self.endpoint_class)
        unseen = [f for n, f in _model_fields(self.model).items() if n not in seen]
        return {n for f in unseen for n in (f.name, getattr(f, "attname", f.name))}

    def dump(self, values):
        """Return each of some values as JSON text."""
        kinds = {*map(type, values)}
        if not kinds <= _PLAIN:
            convert = {kind: _CONVERSIONS.get(kind, _to_plain) for kind in kinds}
            values = [convert[type(value)](value) for value in values]
        return self.dump_plain(values)

    def dump_plain(self, values):
        """Return each of some values that need no conversion as JSON text."""
        return _dump_each(_escape_texts([*values]) if self.html_escape else values)


class _Reader:
    """How the records of a plan's model are queried, and made into batches."""

    def __init__(self, plan):
        self.plan = plan
        self.model = model = plan.model
        order, pk = plan.endpoint_class.ordering, model._meta.pk
        # The statements that are kept, each made when it is first wanted.
        every = model._default_manager.order_by
        counted = models.Func(template="COUNT(*)", output_field=models.IntegerField())
        locked = partial(every().select_for_update().filter, pk=_GIVEN)
        self.names = [field.attname for field in model._meta.concrete_fields]
        self._locking = _Statement(lambda: locked().values_list(*self.names), pk)
        self._count = _Statement(lambda: every().values_list(counted))
        self._by_pk = _Statement(lambda: self._rows.order_by().filter(pk=_GIVEN), pk)
        self._ordered = _Statement(lambda: _in_order(self._rows, order))
        # An expression might compile the current time zone into the SQL.
        keys = (*(order or ()), *model._meta.ordering)
        self._is_lasting = all(isinstance(key, str) for key in keys)

    @cached_property
    def _rows(self):
        """The query of all rows; None if the project chooses or needs the records."""
        if self.plan.is_narrowed or self.plan.needs_records:
            return None
        return self.model._default_manager.values_list(*self.plan.lookups)

    def get_queryset(self, model_endpoint):
        """Return the query of all that an endpoint shows, ready to narrow and load."""
        if self._rows is not None:
            return self._rows
        queryset = model_endpoint.get_queryset(model_endpoint.request)
        if not self.plan.needs_records:
            return queryset.values_list(*self.plan.lookups)
        queryset, joins = queryset.defer(None), self.plan.joins
        return queryset.select_related(*joins) if joins else queryset

    def load(self, queryset, model_endpoint):
        """Return the batch of what a queryset gives, whoever may get it."""
        if self.plan.needs_records:
            return _Instances(self.plan, [*queryset], queryset.db, model_endpoint)
        return _Statement(lambda: queryset).load(queryset.db, model_endpoint)

    def load_visible(self, queryset, model_endpoint):
        """Return the batch of what a queryset gives and the user may get."""
        return self.drop_refused(self.load(queryset, model_endpoint))

    def load_one(self, pk, model_endpoint, using=None):
        """Return the batch of one record, whoever may get it, or an empty one."""
        if self._rows is not None:
            return self._by_pk.load(using or self._rows.db, model_endpoint, [pk])
        found = self.get_queryset(model_endpoint).filter(pk=pk)[:1]
        return self.load(found.using(using) if using else found, model_endpoint)

    def load_page(self, model_endpoint, conditions, order, start, size):
        """Return the batch of a page of the records that match, and how many match."""
        found = self.get_queryset(model_endpoint)
        is_whole = found is self._rows and not conditions
        if is_whole:
            total = self._count.load(found.db).column(0)[0]
        else:
            found = found.filter(*conditions)
            total = found.count()
        limits = (start, start + size)
        if start >= total:
            return _Rows([], found.db, model_endpoint), total
        if is_whole and order == self.plan.endpoint_class.ordering and self._is_lasting:
            return self._ordered.load(found.db, model_endpoint, limits=limits), total
        page = _in_order(found, order)[slice(*limits)]
        return self.load_visible(page, model_endpoint), total

    def lock_one(self, pk, using):
        """Return a locked record, or None; only where the plan is not `is_narrowed`."""
        rows = self._locking.load(using, values=[pk]).rows()
        return next((self.model.from_db(using, self.names, row) for row in rows), None)

    # Records that are there already, and those that other records refer to

    def make_endpoint(self, request):
        """Return the endpoint instance that speaks for the model within a request."""
        return self.plan.endpoint_class._for_model(self.model, request)

    def make_batch(self, records, using, request):
        """Return the batch of instances."""
        return _Instances(self.plan, records, using, self.make_endpoint(request))

    def adopt(self, records, request=None):
        """Return the batch of the project's instances, their relations prefetched."""
        for record, part in itertools.product(records, self.plan.joined):
            if not part.field.is_cached(record):
                # An int for "5", by which the relation is found.
                key = part.field.to_python(getattr(record, part.field.attname))
                setattr(record, part.field.attname, key)
        models.prefetch_related_objects(records, *self.plan.joins)
        using = router.db_for_read(self.model, instance=records[0])
        return self.make_batch(records, using, request)

    def drop_refused(self, batch):
        """Return a batch without the records that the user may not get."""
        if not self.plan.asks or not batch.pks:
            return batch
        model_endpoint = batch.model_endpoint
        may_get = partial(model_endpoint.can_get, model_endpoint.user)
        records = [*filter(may_get, batch.records)]
        return _Instances(self.plan, records, batch.using, model_endpoint)

    def fetch(self, pks, batch):
        """Return by pk what is shown of the records that another model's refer to."""
        model_endpoint, other = (
            self.make_endpoint(batch.model_endpoint.request),
            batch.model_endpoint.model,
        )
        queryset = self.get_queryset(model_endpoint).filter(pk__in=pks)
        is_near = router.db_for_read(self.model) == router.db_for_read(other)
        if is_near and not self.plan.is_narrowed:
            queryset = queryset.using(batch.using)
        found = self.load_visible(queryset, model_endpoint)
        return dict(zip(found.pks, self.plan.encode(found), strict=True))


@functools.cache
def _make_plan(_generation, _is_routed, *arguments):
    return _Plan(*arguments)


def _get_plan(*arguments):
    """Return the plan at the top of an answer, kept until something is registered."""
    _autodiscover()
    is_routed = bool(settings.DATABASE_ROUTERS)
    return _make_plan(_Registry.generation, is_routed, *arguments)


def _get_value(record, name):
    value = None
    with contextlib.suppress(AttributeError, core_exceptions.ObjectDoesNotExist):
        value = getattr(record, name)
    return None if hasattr(value, "resolve_expression") else value


#: The custom encoder that is running, and the JSON text of each of its records by id:
#: how the to_dict() that it extends gets at it.
_encoding = contextvars.ContextVar("encoding")


def _encode_records(records, chosen=None, html_escape=False, request=None):
    """Return instances as dicts, in their order, as the request's user may see them."""
    encoded = {}
    # Not type(): request.user is a lazy object.
    for model in {record._meta.model: None for record in records}:
        same = [record for record in records if record._meta.model is model]
        make = _Plan if chosen else _get_plan
        plan = make(model, None, bool(request), html_escape, chosen)
        texts = plan.encode(plan.reader.adopt(same, request))
        encoded.update(zip(map(id, same), map(json.loads, texts), strict=True))
    return [encoded[id(record)] for record in records]


# --- Encoders -------------------------------------------------------------------------


class DefaultEncoder:
    """How a model looks in JSON; extend `to_dict` to say it in code."""

    #: Whether every text is escaped for HTML.
    html_escape = False

    def to_dict(self, record, html_escape=False):
        """Return what is shown of a record as a dict of plain data."""
        speaking, texts = _encoding.get((None, {}))
        if speaking is self and id(record) in texts:
            return json.loads(texts[id(record)])
        plan = _Plan(record._meta.model, html_escape=html_escape, chosen=self)
        return json.loads(plan.encode_plainly(plan.reader.adopt([record]))[0])

    @property
    def _is_custom(self):
        """Whether code of its own says what is shown."""
        return type(self).to_dict is not DefaultEncoder.to_dict

    def _select(self, names):
        """Return which of the names that the endpoint lets be seen are shown."""
        return names


class HTMLEscapeEncoder(DefaultEncoder):
    """Escapes every text for HTML."""

    html_escape = True


class IncludeEncoder(DefaultEncoder):
    """Shows the fields it lists, and the pk."""

    def __init__(self, include):
        self.include = include

    def _select(self, names):
        return [name for name in names if name in self.include]


class ExcludeEncoder(DefaultEncoder):
    """Shows all fields but those it lists."""

    def __init__(self, exclude):
        self.exclude = exclude

    def _select(self, names):
        return [name for name in names if name not in self.exclude]


class _Registry:
    """What is registered, by class."""

    #: Incremented by every change of a registry: plans made before are not used again.
    generation = 0

    def __init__(self):
        self._registry = {}

    def unregister(self, model) -> None:
        """Take out what is registered for it; raise NotRegistered if nothing is."""
        if model not in self._registry:
            raise NotRegistered(f"{_label(model)} is not registered.")
        del self._registry[model]
        self._change()

    def is_registered(self, model) -> bool:
        """Return whether anything is registered for it."""
        return model in self._registry

    def find(self, model):
        """Return what is registered for a model, or what it is a proxy of, or None."""
        concrete = model._meta.concrete_model
        for base in filter(self.is_registered, model.__mro__):
            if base._meta.concrete_model is concrete:
                return self._registry[base]
        return None

    def _change(self):
        _Registry.generation += 1
        _make_plan.cache_clear()


class _EncoderRegistry(_Registry):
    """The registry of encoders: what each model looks like, wherever it appears."""

    def register(self, model, encoder) -> None:
        """Let an encoder, or the class of one, speak for a model. Raise
        AlreadyRegistered if one does, ImproperlyConfigured for what is none."""
        if model in self._registry:
            raise AlreadyRegistered(f"{_label(model)} has an encoder already.")
        self._registry[model] = self._make(encoder)
        self._change()

    def encode(self, record: Any, encoder=None, html_escape=False) -> Any:
        """Return a record as a dict, a QuerySet or an iterable of records as a list, by
        an `encoder` or the registered one. No user is known here, so what it refers to
        stays a pk where the endpoint overrides `can_get` or `get_queryset`."""
        encoder = encoder and self._make(encoder)
        if isinstance(record, models.Model):
            return _encode_records([record], encoder, html_escape)[0]
        items = [*record]
        if all(isinstance(item, models.Model) for item in items):
            return _encode_records(items, encoder, html_escape)
        plain = _to_plain(items, partial(_encode_records, chosen=encoder))
        return _escape_texts(plain) if html_escape else plain

    def _make(self, encoder):
        kind = encoder if isinstance(encoder, type) else type(encoder)
        if not issubclass(kind, DefaultEncoder):
            what = f"{encoder!r} is no encoder: extend DefaultEncoder.to_dict()."
            raise ImproperlyConfigured(what)
        _refuse_names(kind)
        return encoder() if encoder is kind else encoder


encoder = _EncoderRegistry()


# --- Reading input --------------------------------------------------------------------

_JSON_TYPE = "application/json"
_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", _JSON_TYPE)
#: NUL, which PostgreSQL refuses, and lone surrogates, which no database stores.
_BAD_TEXT = re.compile("[\0\ud800-\udfff]")
#: A URL-encoded body without these bytes needs no further check.
_ODD_BYTES = re.compile(rb"[%\0]")


def _check_storable(value, texts=True):
    """Raise ValueError for a value that is nested too deeply, or cannot be stored. The
    texts in it are skipped if `texts` is false: the caller knows they are fine."""
    level = [value]
    for _depth in range(_MAX_JSON_DEPTH + 1):
        # Level by level, in C, rather than value by value.
        kinds = {*map(type, level)}
        if texts and _BAD_TEXT.search("".join(_of_kind(str, level))):
            raise ValueError(_("Null characters and lone surrogates are not allowed."))
        if float in kinds and not all(map(math.isfinite, _of_kind(float, level))):
            raise ValueError(_("NaN and infinities are not allowed."))
        if not kinds & {dict, list}:
            return
        level = [*filter(None, level)]
        dicts = _of_kind(dict, level)
        keys = dicts if texts else ()  # Iterated, a dict gives its keys.
        held = [*map(dict.values, dicts), *_of_kind(list, level), *keys]
        level = [*itertools.chain.from_iterable(held)]
    raise ValueError(_("It is nested too deeply."))


def _of_kind(kind, values):
    return [value for value in values if type(value) is kind]


def _check_body(value, texts=True):
    """Check a whole body; name the bad key if it is among the first _MAX_MEMBERS."""
    try:
        return _check_storable(value, texts)
    except ValueError as error:
        pairs = enumerate(value if isinstance(value, list) else ())
        pairs = value.items() if isinstance(value, dict) else pairs
        for key, item in itertools.islice(pairs, _MAX_MEMBERS):
            try:
                _check_storable({key: item}, texts)
            except ValueError:
                raise ValueError(f"{error} (in {_dump(key)})") from None
        raise


def _make_object(pairs):
    found = dict(pairs) if pairs else {}
    if len(found) != len(pairs):
        seen = set()
        twice = next(key for key, _value in pairs if key in seen or seen.add(key))
        raise ValueError(_('The key "%s" stands twice.') % twice[:100])
    return found


def _parse_json(text):
    """Return the value of a JSON text; raise ValueError for one that will not do."""
    try:
        value = json.loads(text, object_pairs_hook=_make_object)
    except RecursionError:
        raise ValueError(_("It is nested too deeply.")) from None
    # Only as an escape can NUL or a lone surrogate stand in the text.
    _check_body(value, "\\u" in text)
    return value


def _read_body(request):
    """Set `request.data`, the JSON's value or request.POST, or raise AJAXError 400."""
    try:
        if request.content_type == _JSON_TYPE and request.body:
            request.data = _parse_json(request.body.decode())
        else:
            request.data = request.POST
            if request.content_type == _TYPES[0]:
                body = request.body
                if body.isascii() and not _ODD_BYTES.search(body):
                    return
                unquote_to_bytes(body).decode()  # Django would replace bad UTF-8.
            elif "\ufffd" in "".join(map("".join, dict(request.POST.lists()).values())):
                raise ValueError(_("It is no UTF-8."))  # Django has replaced it.
            _check_body(dict(request.POST.lists()) | dict.fromkeys(request.FILES))
    except ValueError as error:
        kind = "JSON" if request.content_type == _JSON_TYPE else _("form")
        message = _("The body is not valid (%(kind)s): %(error)s")
        raise AJAXError(400, message % {"kind": kind, "error": error}) from None


class _FormValue(list):
    """The texts and files of one key of a form; of a key with [] it is a plain list."""


def _read_keys(request):
    """Return by name what was sent: JSON values, or _FormValues."""
    if isinstance(request.data, MultiValueDict):
        sent = {}
        for key, values in (*request.POST.lists(), *request.FILES.lists()):
            kind = list if key.endswith("[]") else _FormValue
            sent.setdefault(key.removesuffix("[]"), kind()).extend(values)
    elif isinstance(request.data, dict):
        sent = dict(request.data)
    else:
        raise AJAXError(400, _("The body has to be a JSON object."))
    sent.pop("csrfmiddlewaretoken", None)
    return sent


def _unknown(key, names):
    """Return the error for a key that is not shown, with what may have been meant."""
    close = _find_close(key, names)
    said = _('Unknown key. Did you mean "%s"?') % close if close else _("Unknown key.")
    return [said]


def _refuse_unknown(sent, shown):
    """Return an error for each key, up to a number, that is not one of those shown."""
    unknown = [key for key in sent if key not in shown]
    return {key: _unknown(key, shown) for key in unknown[:_MAX_UNKNOWN_KEYS]}


def _invalid_value():
    return ValidationError(_("This value cannot be read."))


def _read_single(field, sent):
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


def _read_several(sent):
    if sent == [""]:
        return []
    if isinstance(sent, _FormValue) and len(sent) == 1 and str(sent[0])[:1] == "[":
        with contextlib.suppress(TypeError, ValueError):
            sent = _parse_json(sent[0])
    if not isinstance(sent, list):
        raise ValidationError(_("This key takes a list."))
    return sent


_BOOLEANS = {"true": True, "on": True, "false": False, "off": False, "": False}


def _text(value):
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _invalid_value()
    return str(value)


def _read_text(field, value, is_form):
    """Read a JSON text or number as the text that a form would send."""
    value = field.to_python(_text(value))
    if isinstance(value, datetime.datetime):
        value = _read_datetime(value)
    _check_storable(value)
    return value


def _read_boolean(field, value, is_form):
    if not isinstance(value, bool):
        value = _BOOLEANS.get(_text(value).lower(), value)
    return field.to_python(value)


def _read_json(field, value, is_form):
    return _parse_json(value) if is_form else value


def _read_file_path(field, value, is_form):
    return field.formfield(required=not field.blank).clean(value)


def _read_array(field, value, is_form):
    values = _parse_json(value) if isinstance(value, str) else value
    if not isinstance(values, list):
        raise _invalid_value()
    return [_read_value(field.base_field, each) for each in values]


class _Kind(NamedTuple):
    """A kind of field: its types and format in JSON Schema, and what reads a value."""

    types: tuple = ()
    format: str = ""
    read: Callable = _read_text


#: By the name of a field's class, or the nearest base that stands here: models and
#: forms call theirs alike. What values become in JSON is in _CONVERSIONS, by their own
#: class, since functions return them too.
_KINDS = {
    "ArrayField": _Kind(read=_read_array),
    "BinaryField": _Kind(("string",), "byte"),
    "BooleanField": _Kind(("boolean",), read=_read_boolean),
    "CharField": _Kind(("string",)),
    "ChoiceField": _Kind(("string",)),
    "DateField": _Kind(("string",), "date"),
    "DateTimeField": _Kind(("string",), "date-time"),
    "DecimalField": _Kind(("string",), "decimal"),
    "DurationField": _Kind(("string",), "duration"),
    "EmailField": _Kind(("string",), "email"),
    "FileField": _Kind(("string", "null"), "binary"),
    "FilePathField": _Kind(("string",), read=_read_file_path),
    "FloatField": _Kind(("number",)),
    "GenericIPAddressField": _Kind(("string",)),
    "IntegerField": _Kind(("integer", "string")),  # SQLite's columns all hold 64 bits.
    "JSONField": _Kind(read=_read_json),
    "TextField": _Kind(("string",)),
    "TimeField": _Kind(("string",), "time-local"),
    "UUIDField": _Kind(("string",), "uuid"),
}


def _find_kind(field):
    names = (each.__name__ for each in type(field).__mro__)
    return next((_KINDS[name] for name in names if name in _KINDS), _Kind())


def _read_value(field, sent):
    """Return what a field (no relation, no file) makes of what was sent for it. Whether
    the value is a good one (length, range, choices) is for validation to say."""
    value = _read_single(field, sent)
    if value is None:
        return None
    try:
        return _find_kind(field).read(field, value, isinstance(sent, _FormValue))
    except (ArithmeticError, TypeError, ValueError):
        raise _invalid_value() from None


#: Date-times within these days are valid in every time zone.
_CALENDAR = datetime.date(1, 1, 2), datetime.date(9999, 12, 30)


def _read_datetime(value):
    """Return a date-time as USE_TZ wants it; raise ValueError for what is no time."""
    value = from_current_timezone(value)
    if timezone.is_aware(value):
        value = value.astimezone(datetime.timezone.utc)
    if not _CALENDAR[0] <= value.date() <= _CALENDAR[1]:
        raise ValueError(_("The date-time is at the end of the calendar."))
    is_odd = timezone.is_aware(value) and not settings.USE_TZ
    return timezone.make_naive(value) if is_odd else value


def _read_pk(model, value):
    """Return a pk, or that of an object which holds it, as its field has it."""
    value = value.get("pk") if isinstance(value, dict) else value
    field = _root_key(model)
    is_number = isinstance(field, models.IntegerField)
    if is_number and not re.fullmatch("-?[0-9]+", str(value)):
        raise _invalid_value()  # To Python 1_0 is a number, too.
    value = _read_value(field, value)
    field.run_validators(value)
    return value


def _read_file(field, sent):
    """Return the upload, False to clear the file, or None to leave it as it is."""
    value = sent[0] if isinstance(sent, _FormValue) and len(sent) == 1 else sent
    if value is None or value == "null":
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
    field, rest, opts = None, name.split("__"), model._meta
    while rest and opts:
        try:
            field = opts.pk if rest[0] == "pk" else opts.get_field(rest[0])
        except core_exceptions.FieldDoesNotExist:
            break
        opts = getattr(field.related_model, "_meta", None)
        del rest[0]
    return field, rest


#: Lookups that compare with a value as the field itself has it.
_COMPARISONS = {"exact", "gt", "gte", "lt", "lte"}
_DATE_PARTS = {
    "date", "time", "year", "iso_year", "quarter", "month", "week", "week_day",
    "iso_week_day", "day", "hour", "minute", "second",
}  # fmt: skip
#: What a filter may ask. Not patterns, which can take for ever, nor what arrays and
#: ranges are asked, which takes no plain text.
_LOOKUPS = {
    *_COMPARISONS, *_DATE_PARTS, "isnull", "in", "iexact", "contains", "icontains",
    "startswith", "istartswith", "endswith", "iendswith",
}  # fmt: skip


def _is_offered(field, lookups):
    """Whether a filter may ask a field at the end of its path these lookups."""
    if _is_special(field) or hasattr(field, "base_field"):
        return lookups == ["isnull"]
    if isinstance(field, models.JSONField) and lookups:
        if lookups[0] in field.get_lookups():
            return lookups in (["isnull"], ["exact"])
        lookups = [each for each in lookups if each in field.get_lookups()]
    *parts, last = lookups or ["exact"]
    return last in _LOOKUPS and _DATE_PARTS.issuperset(parts)


def _whole_number(sent, default):
    text = str(sent[0] if isinstance(sent, _FormValue) else sent)
    is_number = re.fullmatch("-?[0-9]+", text)
    return min(int(text[:30]), _MAX_SAFE_INTEGER) if is_number else default


class _ListOptions:
    """What an endpoint lets the clients of `list` ask for, and how that is read."""

    def __init__(self, model_endpoint):
        self.model_endpoint = model_endpoint
        self.model = model_endpoint.model

    @cached_property
    def conditions(self):
        """What turns a value into a condition, by the key it is sent under."""
        managers = self.model_endpoint._plan.managers.items()
        found = {name: part.match_any for name, part in managers}
        for entry in self.model_endpoint.list_filter:
            found[entry] = partial(self.match_any, entry)
        if self.model_endpoint.search_fields:
            found["search"] = self.search
        return found

    def read(self, sent):
        """Return the order and the conditions that were sent, for order_by() and
        filter(); raise AJAXError 400 with an error for each key that will not do."""
        order, conditions, errors = self.model_endpoint.ordering, [], {}
        for key, value in sent.items():
            try:
                if key == "order_by":
                    order = self.read_order(value) or order
                elif key in self.conditions:
                    conditions.append(self.conditions[key](value))
                else:
                    known = [*self.conditions, "order_by", "items_per_page"]
                    raise ValidationError(_unknown(key, [*known, "current_page"]))
            except ValidationError as error:
                errors[key] = error.messages
            except (ArithmeticError, LookupError, TypeError, ValueError):
                errors[key] = _invalid_value().messages
            if len(errors) == _MAX_UNKNOWN_KEYS:
                break
        if errors:
            raise AJAXError(400, _("Invalid parameters."), errors=errors)
        return order, conditions

    def read_order(self, value):
        """Return the names to order by, of a list or of text with commas."""
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise _invalid_value()
        keys = [key.strip() for text in texts for key in text.split(",") if key.strip()]
        if len(keys) > _MAX_SORT_KEYS:
            raise ValidationError(_("At most %s names.") % _MAX_SORT_KEYS)
        for key in keys:
            if key.removeprefix("-") not in self.model_endpoint.sortable_by:
                raise ValidationError(_unknown(key, self.model_endpoint.sortable_by))
        return keys

    def search(self, value):
        """Return the condition that the admin's search finds a record."""
        from django.contrib import admin

        text = value[0] if isinstance(value, _FormValue) and len(value) == 1 else value
        if not isinstance(text, str) or len(text) > _MAX_FILTER_LENGTH:
            raise _invalid_value()
        if len(text.split()) > _MAX_SEARCH_WORDS:
            raise ValidationError(_("At most %s words.") % _MAX_SEARCH_WORDS)
        searching = admin.ModelAdmin(self.model, admin.site)
        searching.search_fields = self.model_endpoint.search_fields
        rows = self.model._base_manager.all()
        rows = searching.get_search_results(self.model_endpoint.request, rows, text)[0]
        return Q(pk__in=rows.values("pk"))

    def match_any(self, entry, value):
        """Return the condition that an entry of `list_filter` has one of the values."""
        from django.contrib.admin.utils import lookup_spawns_duplicates

        values = value if isinstance(value, list) else [value]
        if len(values) > _MAX_FILTER_VALUES:
            raise ValidationError(_("At most %s values.") % _MAX_FILTER_VALUES)
        found = [self.match(entry.removesuffix("__in"), each) for each in values]
        found = Q.create([Q(pk__in=[]), *found], connector=Q.OR)
        rows = self.model._base_manager.filter(found)
        with contextlib.suppress(core_exceptions.EmptyResultSet):
            # Compile it now, so that impossible values (a year 10000) raise here.
            _Statement(lambda: rows).compile(rows.db)
        if lookup_spawns_duplicates(self.model._meta, entry):
            return Q(pk__in=rows.values("pk"))
        return found

    def match(self, entry, value):
        """Return the condition that an entry has one value."""
        field, lookups = _end_of_path(self.model, entry)
        if lookups == ["isnull"]:
            return Q((entry, _read_value(models.BooleanField(), value)))
        is_text = isinstance(field, _TEXT_FIELDS)
        if not lookups and (value is None or value == "null" and not is_text):
            return Q((f"{entry}__isnull", True))
        if field.is_relation and lookups in ([], ["exact"]):
            entry = entry.removesuffix("__exact") + "__pk"
            return Q((entry, _read_pk(field.related_model, value)))
        if not lookups or len(lookups) == 1 and lookups[0] in _COMPARISONS:
            value = _read_value(field, value)
        elif not isinstance(value, (str, int, float)) or not _is_offered(
            field, lookups
        ):
            raise _invalid_value()
        if isinstance(value, str) and len(value) > _MAX_FILTER_LENGTH:
            raise ValidationError(_("At most %s characters.") % _MAX_FILTER_LENGTH)
        return Q((entry, value))

    def describe(self):
        """Return the schemas of all that may be sent, by key."""
        found = dict.fromkeys(self.model_endpoint._plan.managers, _describe_list(_TEXT))
        for entry in self.model_endpoint.list_filter:
            field, lookups = _end_of_path(self.model, entry.removesuffix("__in"))
            found[entry] = dict(_TEXT) if lookups else _describe_field(field)
        found |= {"search": _TEXT} if self.model_endpoint.search_fields else {}
        if self.model_endpoint.sortable_by:
            names = ", ".join(self.model_endpoint.sortable_by)
            found["order_by"] = _TEXT | {
                "description": f"{names}; a - turns one round."
            }
        return found | {"items_per_page": _NUMBER, "current_page": _NUMBER}


# --- Decorators -----------------------------------------------------------------------


def _login_url():
    return {"login_url": resolve_url(settings.LOGIN_URL)}


def _require_login(request):
    if not request.user.is_authenticated:
        raise AJAXError(403, _("User must be authenticated."), **_login_url())


def login_required(view: Callable) -> Callable:
    """Let only logged-in users call an endpoint, sync or async: else AJAXError 403."""

    @functools.wraps(view)
    def guarded(request, *args, **kwargs):
        _require_login(request)
        return view(request, *args, **kwargs)  # For an async view, the coroutine.

    guarded.wants_login = True
    return guarded


def json_response(view: Callable) -> Callable:
    """Give any view the answers of an endpoint: JSON for what it returns and raises."""

    @functools.wraps(view)
    def answered(request, *args, **kwargs):
        try:
            with contextlib.ExitStack() as stack:
                _enter_atomic_requests(stack, answered)
                result = _run_view(view, request, *args, **kwargs)
                return _success_response(result, request)
        except Exception as error:
            return _error_response(request, error)

    spared = getattr(view, "_non_atomic_requests", ())
    answered._non_atomic_requests = _EveryAlias(spared)
    return answered


def _run_view(view, request, *args, **kwargs):
    """Return what a view returns; an async one is run with its user loaded already."""
    result = view(request, *args, **kwargs)
    if not inspect.isawaitable(result):
        return result

    async def finish():
        return await result

    try:
        bool(getattr(request, "user", None))
    except BaseException:
        result.close()
        raise
    return async_to_sync(finish)()


@functools.lru_cache(maxsize=256)
def _find_places(function, *names):
    """Return how many arguments a function takes by place, and whether it takes these
    names as keywords."""
    parameters = [*inspect.signature(function).parameters.values()]
    takes_names = any(p.kind is p.VAR_KEYWORD or p.name in names for p in parameters)
    takes_all = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    places = sum(p.kind < p.VAR_POSITIONAL for p in parameters)
    return sys.maxsize if takes_all else places, takes_names


def _call(hook, *arguments, **named):
    """Call a hook with as many arguments as it takes: the old package's took fewer.
    What is `named` goes by keyword if it has such a parameter."""
    function = getattr(hook, "__func__", hook)
    places, takes_names = _find_places(function, *named)
    if not takes_names:
        arguments, named = (*arguments, *named.values()), {}
    is_method = function is not hook
    return hook(*arguments[: places - is_method], **named)


def _takes_one(function, *before):
    """Whether something can be called with one argument, after those before it."""
    try:
        inspect.signature(function, follow_wrapped=False).bind(*before, None)
    except (TypeError, ValueError):
        return False
    return True


def _takes_request(function, *before):
    """Whether a function can be called with a request, named so, and nothing else."""
    name = [*inspect.signature(function).parameters, None, None][len(before)]
    return name == "request" and _takes_one(function, *before)


# --- Transactions ---------------------------------------------------------------------


@contextlib.contextmanager
def _transaction(using, locks=True):
    """Run a block as one transaction. If it `locks`, SQLite does BEGIN IMMEDIATE:
    other writers wait, instead of failing with "database is locked" after a read."""
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
    """Seems to contain every alias, so that Django opens no transaction of its own for
    the view. Iterated, it gives those that the view itself exempts from ours."""

    def __contains__(self, alias):
        return True


def _enter_atomic_requests(stack, view, locks=True):
    """Open the transactions that ATOMIC_REQUESTS wants around a view: here, so that an
    error reply rolls back, and what fails at the commit is an error reply."""
    spared = getattr(view, "_non_atomic_requests", ())
    for alias, options in connections.settings.items():
        if options["ATOMIC_REQUESTS"] and alias not in {*spared}:
            stack.enter_context(_transaction(alias, locks))


# --- Writing a record -----------------------------------------------------------------


def _copy(record):
    copied = copy.copy(record)
    for name, value in vars(copied).items():
        if isinstance(value, (dict, list)):
            setattr(copied, name, copy.deepcopy(value))
    return copied


def _is_same(field, stored, modified):
    """Whether two instances have the same value, as the field stores it."""
    before, after = vars(stored).get(field.attname), vars(modified).get(field.attname)
    if before is after:
        return True
    if isinstance(after, File) and not getattr(after, "_committed", False):
        return False  # A new upload, whatever its name.
    if isinstance(field, models.JSONField):
        before, after = repr(before), repr(after)  # To Python True is 1.
    return before == after


def _insert_first(record):
    """Make the first save() of a new record an INSERT, so that a pk that was sent never
    overwrites a record. Not by save(force_insert=True): a model's own save() may not
    take it."""

    def insert(**options):
        del record.save_base
        record.save_base(**options | {"force_insert": (models.Model,)})

    if record._state.adding and record.pk is not None:
        record.save_base = insert


class _Draft:
    """A record that is written: what was sent is read into it, validated, and saved.

    `stored` is the record as it is, None for a new one. What is wrong with a key waits
    in `errors` until the user is known to be allowed to write; many-to-many values and
    tags wait in `relations` until the record is saved.
    """

    def __init__(self, model_endpoint):
        self.model_endpoint = model_endpoint
        self.plan = model_endpoint._plan
        self.request = model_endpoint.request
        self.sent = _read_keys(model_endpoint.request)
        self.errors = {}
        self.relations = {}
        #: By foreign key the value that was found to refer to something.
        self.found = {}

    def read_into(self, record, stored=None):
        """Read what was sent into a record."""
        self.record, self.stored = record, stored
        for key, value in self.sent.items():
            part = self.plan.writable.get(key)
            if part is None or part.field.primary_key and stored is not None:
                continue
            try:
                part.read(self, value)
            except ValidationError as error:
                self.errors[key] = error.messages
        pk_names = _pk_names(self.plan.model)
        shown = {*self.plan.names, *self.plan.writable, *pk_names}
        self.errors |= _refuse_unknown(self.sent, shown)

    def find_related(self, field, pks):
        """Return by pk the records that may be referred to; raise ValidationError for
        one that may not."""
        related = field.remote_field.model
        model_endpoint = endpoint.find(related)._for_model(related, self.request)
        rows = self.model_endpoint.get_field_queryset(self.request, field).filter(
            pk__in=pks
        )
        rows = rows.complex_filter(field.get_limit_choices_to()) if pks else ()
        found = {
            each.pk: each
            for each in rows
            if model_endpoint.can_get(model_endpoint.user, each)
        }
        for pk in pks:
            if pk not in found:
                message = _("%(model)s with pk %(pk)s does not exist.")
                what = {"model": related._meta.verbose_name, "pk": pk}
                raise ValidationError(message, params=what)
        return found

    @contextlib.contextmanager
    def refusing_first(self):
        """Answer 403 if a hook fails over a value that is missing or was not readable:
        who may not write is to learn nothing else."""
        try:
            yield
        except Exception as error:
            # RelatedObjectDoesNotExist is both.
            kinds = (AttributeError, core_exceptions.ObjectDoesNotExist)
            is_absent = all(isinstance(error, kind) for kind in kinds)
            is_refusal = isinstance(error, AJAXError) and error.code == 403
            if is_refusal or not (self.errors or is_absent):
                raise
            raise AJAXError(403, _MESSAGES[403]) from error

    def find_same(self):
        """Return the fields that still have the value that is stored."""
        if self.stored is None:
            return set()
        fields = self.record._meta.concrete_fields
        return {each for each in fields if _is_same(each, self.stored, self.record)}

    def is_changed(self):
        """Whether any column differs from what is stored."""
        return len(self.find_same()) < len(self.record._meta.concrete_fields)

    def validate(self):
        """Raise AJAXError 400 with what full_clean() says. Unchanged fields are
        skipped; clean(), unique checks and constraints wait until all are valid."""
        record, names = self.record, self.plan.names
        found = self.found.items()
        found = {f.name for f, pk in found if pk == getattr(record, f.attname)}
        skipped = {f.name for f in self.find_same()} | found | self.errors.keys()
        errors = dict(self.errors)
        try:
            record.clean_fields(skipped)
            if not errors:
                record.clean_fields = lambda exclude=None: None  # Done.
                record.full_clean()
        except ValidationError as error:
            for name, messages in _errors_by_field(error).items():
                key = name if name in names else "pk"
                if name not in {*names, *_pk_names(self.plan.model)}:
                    key = core_exceptions.NON_FIELD_ERRORS
                errors.setdefault(key, []).extend(messages)
        finally:
            vars(record).pop("clean_fields", None)
        if errors:
            raise _invalid(errors)

    def save_relations(self):
        """Save what can only be saved once the record is."""
        for name, values in self.relations.items():
            getattr(self.record, name).set(values)


# --- Endpoints ------------------------------------------------------------------------


class _Operation(NamedTuple):
    """What is known of an operation besides its method; `on_record` is None for one
    that is called with or without a record."""

    method: str
    on_record: bool | None
    hook: str = "can_get"
    permission: str = ""
    reads: bool = False
    asks: str = ""
    is_custom: bool = False


#: The operations of every model. One more is a method, and a line here.
_OPERATIONS = {
    "create": _Operation("create", False, "can_create", "add"),
    "list": _Operation("list", False, "can_list", reads=True),
    "get": _Operation("get", True, reads=True),
    "update": _Operation("update", True, "can_update", "change"),
    "delete": _Operation(
        "delete", True, "can_delete", "delete", asks="Delete this record?"
    ),
}
_CHANGE_TAGS = _Operation("tags", True, "can_update", "change")
#: The commands on a TaggableManager.
_COMMANDS = {
    "add": _CHANGE_TAGS,
    "remove": _CHANGE_TAGS,
    "set": _CHANGE_TAGS,
    "clear": _CHANGE_TAGS._replace(asks="Take all tags away?"),
    "similar": _Operation("_similar", True, reads=True),
}
#: What is called by a function's or a form's name only.
_CALL = _Operation("create", False)


class BaseAuthentication:
    """Who may call models and forms: every user that is logged in and active."""

    def is_authenticated(self, request, application, method) -> bool:
        """Return whether the request's user may call the operation `method`."""
        return request.user.is_authenticated and request.user.is_active


class BaseEndpoint:
    """A callable endpoint: extend it, define `__call__(self, request)`, and put an
    instance into endpoints.py."""

    csrf_exempt = False

    def _encode_record(self, record):
        """Return a record as a dict."""
        return encoder.encode(record)

    def _encode_data(self, data):
        """Return a QuerySet, or any iterable of records, as a list of dicts."""
        return encoder.encode(data)


class _Function(BaseEndpoint):
    """An ad-hoc endpoint, as `dispatch` knows it."""

    _operation = _CALL

    def __init__(self, view):
        self.view = view
        marked = (view, type(view).__call__)
        self.csrf_exempt = any(getattr(each, "csrf_exempt", False) for each in marked)
        self.is_exempt = any(not getattr(e, "login_required", True) for e in marked)
        self._non_atomic_requests = getattr(view, "_non_atomic_requests", ())

    @property
    def wants_login(self):
        """Whether LoginRequiredMiddleware wants a login."""
        return not self.is_exempt and _has_login_middleware(tuple(settings.MIDDLEWARE))

    def _authorize(self, request):
        """Raise AJAXError 403 for who has to log in."""
        if self.wants_login:
            _require_login(request)

    def _run(self, request):
        """Return what the function returns."""
        return _run_view(self.view, request)


@functools.lru_cache(maxsize=8)
def _has_login_middleware(middleware):
    from django.contrib.auth.middleware import LoginRequiredMiddleware as wanted

    found = map(import_string, middleware)
    return any(isinstance(each, type) and issubclass(each, wanted) for each in found)


class _ServedEndpoint(BaseEndpoint):
    """What endpoints of models and forms share. One instance per request has `request`,
    `application` (the label in the path), `model` (or the form's class), `method` (the
    operation, or the tags manager), and `pk` and `command` as in the path, or None."""

    request: Any = None
    _operation = _CALL

    def __init__(self, application, model, method, pk=None, command=None):
        self.application = application
        self.model = model
        self.method = method
        self.pk = pk
        self.command = command

    @property
    def user(self) -> Any:
        """The request's user, an anonymous one where there is no request."""
        if self.request is not None:
            return self.request.user
        from django.contrib.auth.models import AnonymousUser

        return AnonymousUser()

    def _find_operation(self):
        """Return the operation that the path names."""
        return _CALL

    def authenticate(self, request, application, method) -> bool:
        """Return whether the user may call at all; by default the setting says."""
        default = f"{__name__}.BaseAuthentication"
        authentication = getattr(settings, "AJAX_AUTHENTICATION", default)
        authentication = import_string(authentication)()
        return authentication.is_authenticated(request, application, method)

    def _authorize(self, request):
        """Raise AJAXError 403 for who may not call, 415 for what cannot be read."""
        self.request = request
        if not self.authenticate(request, self.application, self.method):
            extra = {} if self.user.is_authenticated else _login_url()
            raise self._refuse("authenticate", _("User is not authorized."), **extra)
        if request.content_type not in _TYPES and request.body:
            raise AJAXError(415, _("Send %s.") % ", ".join(_TYPES))

    def _run(self, request):
        """Return what the operation returns."""
        return _run_view(getattr(self, self._operation.method), request)

    def _refuse(self, hook, message=_MESSAGES[403], **extra):
        """Return the AJAXError 403 for a hook that said no."""
        hint = _hint(f"{hook} of {type(self).__name__} returned False")
        return AJAXError(403, message, **extra, **hint)


def _is_writable(field, is_named):
    is_members = field.many_to_many and not _is_tags_manager(field)
    if is_members and not field.remote_field.through._meta.auto_created:
        return False
    if field.generated or _is_special(field):
        return False
    return is_named or field.editable and not field.primary_key


@functools.cache
def _operations(endpoint_class):
    """Return all operations of an endpoint class by name."""
    found = dict(_OPERATIONS)
    for base in endpoint_class.__mro__:
        for name, value in vars(base).items():
            is_new = name[0] != "_" and not hasattr(ModelEndpoint, name)
            is_new = is_new and issubclass(base, ModelEndpoint)
            is_last = is_new and getattr(endpoint_class, name) is value
            if is_last and inspect.isfunction(value):
                if _takes_request(inspect.unwrap(value), "self"):
                    found[name] = _Operation(name, None, is_custom=True)
    return found


class ModelEndpoint(_ServedEndpoint):
    """Serves the records of a model, the way ModelAdmin does; register a subclass.

    In every hook `self.request`, `self.user`, `self.model`, `self.pk` and `self.record`
    are at hand. A public method whose only required argument is `request` is an
    operation of its own, with or without a record.
    """

    # What is shown and written

    #: Names of what clients see and may send; None and "__all__" are all model fields.
    #: Also properties and methods, of the endpoint (taking the record) or model.
    fields: Any = None
    #: Names that are neither seen nor written.
    exclude: Any = ()
    #: Names that are seen, never written; `immutable_fields` is the old name.
    readonly_fields: Any = ()
    immutable_fields: Any = ()
    #: Foreign keys shown whole: True (all), levels, names ("category__parent"), False.
    expand: Any = True

    # What `list` does

    #: The order of `list`; None is the queryset's or model's own.
    ordering: Any = None
    #: What clients may order by, search in, and filter on, as in `filter()`.
    sortable_by: Any = ()
    search_fields: Any = ()
    list_filter: Any = ()
    #: Page sizes; None is the setting AJAX_MAX_PER_PAGE.
    list_per_page = 20
    max_per_page: Any = None

    # Who may do what

    #: Names of the operations offered, None for all; a tags manager's is its commands'.
    operations: Any = None
    #: Whether Django's permissions are wanted too; None is True for user models.
    require_permissions: Any = None

    @classmethod
    def _for_model(cls, model, request):
        """Return an endpoint that speaks for a model within another one's request."""
        found = cls(model._meta.app_label, model, "get")
        found.request = request
        return found

    # The way of a request to an operation

    def _offers(self, name):
        """Whether `operations` has an operation, or a tags manager."""
        return self.operations is None or name in self.operations

    def _find_operation(self):
        """Return the operation that the path names, or raise AJAXError 404 (400 for one
        that wants a record, without one)."""
        if self.command:
            return self._find_command()
        known = _operations(type(self))
        found = known.get(self.method) if self._offers(self.method) else None
        if found and found.on_record and self.pk is None:
            raise AJAXError(400, _("Invalid request for record."))
        if found and found.on_record in (None, self.pk is not None):
            return found
        raise self._no_operation()

    def _find_command(self):
        """Return the operation of a tags command; a read-only manager has `similar`."""
        if not self._offers(self.method) or self.method not in self._plan.managers:
            raise self._no_operation()
        found = _COMMANDS.get(self.command)
        if found and (found.reads or self.method in self._plan.writable):
            return found
        raise _missing(_("Invalid method."), self.command, _COMMANDS)

    def _no_operation(self):
        known = self.operations or {*_operations(type(self)), *self._plan.managers}
        return _missing(_("Invalid method."), self.method, known)

    def _run(self, request):
        """Return what the operation returns; a custom one wants `can_get` to allow."""
        if self._operation.is_custom and self.pk is not None:
            self._get_visible_record()
        return super()._run(request)

    # Operations

    def create(self, request):
        """Save a new record; return it as `get` would."""
        draft = _Draft(self)
        with _transaction(self._using):
            self.record = record = self.model()
            draft.read_into(record)
            with draft.refusing_first():
                self.prepare_record(request, record, True)
                self._permit("create", record)
            draft.validate()
            _insert_first(record)
            self.save_record(request, record, True)
            draft.save_relations()
            ajax_created.send(sender=self.model, instance=record, request=request)
            return self._show_written(record.pk)

    def get(self, request):
        """Return the record."""
        plan = self._plan
        batch = plan.reader.load_one(self._parse_own_pk(), self)
        if not batch.pks:
            raise self._not_found()
        if plan.asks:
            self.record = batch.records[0]
            self._get_visible_record()
        return json.loads(plan.encode(batch)[0])

    def update(self, request):
        """Save what changed of the record; return it as `get` would."""
        draft = _Draft(self)
        with _transaction(self._using):
            stored = self._get_record(locked=True)
            modified = _copy(stored)
            draft.read_into(modified, stored)
            with draft.refusing_first():
                self.prepare_record(request, modified, False)
                self._permit("update", stored, modified=modified)
            draft.validate()
            is_changed = draft.is_changed()
            if is_changed or draft.relations:
                self.record = modified
                if is_changed:
                    self.save_record(request, modified, False)
                draft.save_relations()
                ajax_updated.send(sender=self.model, instance=modified, request=request)
            return self._show_written(stored.pk)

    def delete(self, request):
        """Delete the record; return {"pk": ...}."""
        with _transaction(self._using):
            record = self._get_record(locked=True)
            self._permit("delete", record)
            payload = {"pk": record.pk}
            self.delete_record(request, record)
            sent = {"instance": record, "payload": payload, "request": request}
            ajax_deleted.send(sender=self.model, **sent)
            return payload

    def list(self, request):
        """Return a page of records, with `total` and the like beside it."""
        if not self.can_list(self.user):
            raise self._refuse("can_list")
        parameters, (default, most) = _read_keys(request), self._get_sizes()
        size = _whole_number(parameters.pop("items_per_page", None), default)
        page = max(1, _whole_number(parameters.pop("current_page", None), 1))
        size = min(max(1, size), most)
        order, conditions = _ListOptions(self).read(parameters)
        start = (page - 1) * size
        batch, total = self._plan.reader.load_page(self, conditions, order, start, size)
        texts = self._plan.encode(batch)
        pages = {"total_pages": max(1, math.ceil(total / size)), "current_page": page}
        return _Page(texts, {"total": total, **pages, "items_per_page": size})

    def tags(self, request):
        """Run a tags command that changes the record; return all tags."""
        with _transaction(self._using):
            record = self._get_visible_record(locked=True)
            self._permit("update", record, modified=record)
            part = self._plan.managers[self.method]
            run = getattr(getattr(record, self.method), self.command)
            if self.command == "clear":
                run()
            elif self.command == "set":
                run(self._read_names(request, part.field))
            else:
                run(*self._read_names(request, part.field))
            return json.loads(part.encode_tags([record.pk], self._using)[0])

    # Records and querysets

    @functools.cached_property
    def record(self) -> Any:
        """The record of the path, None without one; AJAXError 404 if there is none."""
        return None if self.pk is None else self._get_record()

    def get_queryset(self, request) -> models.QuerySet:
        """Return what there is for this request: what is outside does not exist."""
        return self.model._default_manager.all()

    def get_field_queryset(self, request, field) -> models.QuerySet:
        """Return what may be sent for a relation; `limit_choices_to` narrows it too."""
        related = field.remote_field.model
        rows = endpoint.find(related)._for_model(related, request).get_queryset(request)
        return rows.none() if endpoint.is_closed(related) else rows

    def prepare_record(self, request, record: Any, created: bool) -> None:
        """Change a record that was read, before permissions are asked."""

    def save_record(self, request, record: Any, created: bool) -> None:
        """Save a record that is permitted and valid, within the transaction."""
        record.save()

    def delete_record(self, request, record: Any) -> None:
        """Delete a record, within the transaction."""
        record.delete()

    @cached_property
    def _using(self):
        return router.db_for_write(self.model)

    def _get_sizes(self):
        """Return the usual and the largest size of a page."""
        most = self.max_per_page
        most = getattr(settings, "AJAX_MAX_PER_PAGE", 100) if most is None else most
        return min(self.list_per_page, most), most

    def _get_record(self, locked=False):
        """Return the record of the path, or raise AJAXError 400 or 404."""
        pk = self._parse_own_pk()
        self.record = None  # get_queryset() may look at it while it is fetched.
        if locked and not self._plan.is_narrowed:
            self.record = self._plan.reader.lock_one(pk, self._using)
        else:
            rows = self.get_queryset(self.request).filter(pk=pk)
            if locked:
                rows = rows.using(self._using)
                if connections[self._using].features.has_select_for_update:
                    # By a bare query: one with DISTINCT or outer joins cannot lock.
                    plain = models.QuerySet(self.model, using=self._using)
                    len(plain.select_for_update().filter(pk=pk))
            self.record = next(iter(rows[:1]), None)
        if self.record is None:
            raise self._not_found()
        return self.record

    def _get_visible_record(self, locked=False):
        """Return the record of the path; raise AJAXError 403 if can_get says no."""
        record = self._get_record(locked) if locked else self.record
        if not self.can_get(self.user, record):
            raise self._refuse("can_get")
        return record

    def _parse_own_pk(self):
        try:
            return _read_pk(self.model, self.pk)
        except ValidationError:
            raise self._not_found() from None

    def _not_found(self):
        message = _('%(model)s with id of "%(pk)s" not found.')
        return AJAXError(404, message % {"model": self.model.__name__, "pk": self.pk})

    def _show_written(self, pk):
        """Return a record that was written as `get` shows it, else its pk."""
        batch = self._plan.reader.load_one(pk, self, self._using)
        texts = self._plan.encode(self._plan.reader.drop_refused(batch))
        return json.loads(texts[0]) if texts else {"pk": pk}

    def _similar(self, request):
        """Return records that share tags with this one, most shared first."""
        record, reader = self._get_visible_record(), self._plan.reader
        using, size = self.get_queryset(request).db, self._get_sizes()[0]
        found = reader.get_queryset(self).exclude(pk=record.pk)
        found = self._plan.managers[self.method].rank(found, record.pk, using)
        texts = self._plan.encode(reader.load_visible(found[:size], self))
        return [json.loads(text) for text in texts]

    @cached_property
    def _plan(self):
        return _get_plan(self.model, type(self), True)

    def _read_names(self, request, manager):
        """Return the names of the tags that were sent."""
        sent = _read_keys(request)
        errors = _refuse_unknown(sent, ["tags"])
        try:
            names = _read_tags(manager, sent.get("tags"))
        except ValidationError as error:
            errors["tags"] = error.messages
        if errors:
            raise _invalid(errors)
        return names

    # Permissions

    def can_create(self, user, record: Any) -> bool:
        """Return whether the user may create the record, which is not saved yet."""
        return user.is_active

    def can_get(self, user, record: Any) -> bool:
        """Return whether the user may see the record, wherever it appears."""
        return True

    def can_list(self, user) -> bool:
        """Return whether the user may list records."""
        return False

    def can_update(self, user, record: Any, modified: Any) -> bool:
        """Return whether the user may change `record`, as stored, to `modified`, an
        unsaved copy. New many-to-many values and tags are on neither."""
        return user.is_active

    def can_delete(self, user, record: Any) -> bool:
        """Return whether the user may delete the record."""
        return user.is_active

    @property
    def _wants_permissions(self):
        wanted = self.require_permissions
        return _is_user_model(self.model) if wanted is None else wanted

    def _permit(self, name, *records, **modified):
        """Raise AJAXError 403 unless the hook of an operation, and the permission if
        it is wanted, allow it."""
        operation = _OPERATIONS[name]
        hook = getattr(self, operation.hook)
        if not _call(hook, self.user, *records, **modified):
            raise self._refuse(operation.hook)
        if self._wants_permissions:
            opts = self.model._meta
            codename = get_permission_codename(operation.permission, opts)
            if not self.user.has_perm(f"{opts.app_label}.{codename}"):
                hint = _hint(f"the user lacks {opts.app_label}.{codename}")
                raise AJAXError(403, _MESSAGES[403], **hint)


class FormEndpoint(_ServedEndpoint):
    """Serves a Django form: validates what is sent, saves it, returns the result."""

    def get_form_kwargs(self, request) -> dict[str, Any]:
        """Return further keyword arguments for the form, such as `instance`."""
        return {}

    def _run(self, request):
        """Return what `create` does; a ModelForm is one transaction up to the reply."""
        options = getattr(self.model, "_meta", None)
        if options is None:
            return super()._run(request)
        with _transaction(router.db_for_write(options.model)):
            return _success_response(super()._run(request), request)

    def create(self, request):
        """Return what `form.save()` returned, else the cleaned data, records as pks."""
        data = _make_form_data(self.model, request)
        kwargs = {"data": data, "files": request.FILES, **self.get_form_kwargs(request)}
        form = self.model(**kwargs)
        for field in form.fields.values():
            field.clean = partial(_clean, field.clean, field)
        try:
            is_valid = form.is_valid()
        except (binascii.Error, UnicodeEncodeError):  # Of BinaryField on Django 5.2.
            raise _invalid_value() from None
        if not is_valid:
            raise _invalid(form.errors)
        if hasattr(form, "instance"):
            _insert_first(form.instance)
        if hasattr(form, "save"):
            return form.save()
        for name, value in form.cleaned_data.items():
            if isinstance(form.fields.get(name), forms.ModelChoiceField):
                form.cleaned_data[name] = form.fields[name].prepare_value(value)
        return form.cleaned_data


def _clean(clean, field, value, *initial):
    """Clean as a form's field does, refusing what cannot be stored."""
    try:
        if isinstance(field, forms.JSONField) and isinstance(value, str):
            _parse_json(value or "null")
        cleaned = _check_times(clean(value, *initial))
        _check_storable(cleaned)
        return cleaned
    except (ArithmeticError, RecursionError, TypeError, ValueError):
        # What Django's fields let through: numbers beyond a column, odd base64.
        raise _invalid_value() from None


def _check_times(value):
    """Return date-times, in lists too, as USE_TZ wants them; check those of ranges."""
    if isinstance(value, datetime.datetime):
        return _read_datetime(value)
    if hasattr(value, "lower_inc"):
        _check_times([value.lower, value.upper])
    return [*map(_check_times, value)] if isinstance(value, list) else value


def _make_form_data(form_class, request):
    """Return a form's data; a JSON object becomes the texts a browser would send."""
    data = MultiValueDict()
    for key, value in _read_keys(request).items():
        is_json = isinstance(form_class.base_fields.get(key), forms.JSONField)
        if is_json and not isinstance(value, _FormValue):
            data[key] = _dump(value)
        elif value is not None:
            values = value if isinstance(value, list) else [value]
            texts = [each for each in values if not isinstance(each, File)]
            texts = [each if isinstance(each, str) else _dump(each) for each in texts]
            data.setlist(key, texts)
    most = settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
    if most is not None and sum(len(values) for _key, values in data.lists()) > most:
        raise core_exceptions.TooManyFieldsSent(_("It has too many values."))
    several = (forms.MultipleChoiceField, forms.ModelMultipleChoiceField)
    for name, field in form_class.base_fields.items():
        if isinstance(field, several) and data.getlist(name) == [""]:
            data.setlist(name, [])  # How a page says that nothing is chosen.
    return data


# --- Registry -------------------------------------------------------------------------


class _EndpointRegistry(_Registry):
    """The registry of what is served: models and forms, by class and by path."""

    def __init__(self):
        super().__init__()
        self._paths = {}

    def register(self, model, endpoint_class=None) -> None:
        """Serve a model or form, or several, by a class; skip a swapped model.
        Raise AlreadyRegistered, or ImproperlyConfigured for what cannot be served."""
        if model and isinstance(model, (list, tuple, set)):
            for each in model:
                self.register(each, endpoint_class)
            return
        kinds = (models.Model, forms.BaseForm)
        if not (isinstance(model, type) and issubclass(model, kinds)):
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
                both = f"{_label(model)} and {_label(self._paths[each])}"
                where = "/".join(each[1:])
                raise AlreadyRegistered(f"{both} are both at {where}.json.")
        self._registry[model] = endpoint_class
        self._paths |= dict.fromkeys(paths, model)
        self._change()

    def unregister(self, model) -> None:
        """Serve a model or form no more; raise NotRegistered if it is not served."""
        super().unregister(model)
        self._paths = {k: v for k, v in self._paths.items() if v is not model}

    def find(self, model):
        """Return the endpoint class that speaks for a model."""
        return super().find(model) or ModelEndpoint

    def is_closed(self, model):
        """Whether a model has no endpoint, but another on its table does: nobody said
        what of it may be seen, so only its pk is."""
        if super().find(model):
            return False
        tables, *others = (
            {part._meta.concrete_model for part in (each, *each._meta.all_parents)}
            for each in (model, *self._registry)
            if issubclass(each, models.Model)
        )
        return any(tables & each for each in others)

    def _check(self, model, endpoint_class, base):
        pk = getattr(model._meta, "pk", None) if base is ModelEndpoint else model
        if not issubclass(endpoint_class, base):
            raise ImproperlyConfigured(f"{_label(model)} wants a {base.__name__}.")
        if pk is None or isinstance(pk, models.CompositePrimaryKey):
            raise ImproperlyConfigured(f"{_label(model)} has no key of one field.")
        _refuse_names(model, {"__exclude__": _OLD_NAMES["__exclude__"]}, ())
        _refuse_names(endpoint_class)
        if base is ModelEndpoint:
            _refuse_reverse_relations(model, endpoint_class)


#: Names of the old package and of ModelAdmin that nothing asks, and what to do instead.
_OLD_NAMES = {
    "authentication": "override authenticate(), or set AJAX_AUTHENTICATION.",
    "_save": "override save_record().",
    "_extract_data": "override prepare_record(), or set readonly_fields.",
    "_extract_tags": "override prepare_record().",
    "_set_tags": "override save_record() and tags().",
    "_get_record": "override get_queryset() or can_get().",
    "_encode_record": "set fields, or register an encoder.",
    "_encode_data": "set fields, or register an encoder.",
    "__call__": "override to_dict().",
    "_escape": "override to_dict(), or set html_escape = True.",
    "__exclude__": "set exclude in its endpoint, or register an ExcludeEncoder.",
    "has_add_permission": "override can_create().",
    "has_change_permission": "override can_update().",
    "has_delete_permission": "override can_delete().",
    "has_view_permission": "override can_get() and can_list().",
    "save_model": "override save_record().",
}

#: The options and hooks that are asked: all public names, but for the operations and
#: what an instance has at hand.
_ASKED = {
    name
    for each in (ModelEndpoint, FormEndpoint, DefaultEncoder)
    for name in dir(each)
    if name[0] != "_"
} - {*_OPERATIONS, "tags", "request", "user", "record"}


def _refuse_names(cls, old=_OLD_NAMES, asked=_ASKED):
    """Refuse a class with a misspelt or outdated hook: what it was meant to close would
    be open."""
    ours = (each for each in cls.__mro__ if each.__module__ != __name__)
    for name, value in {k: v for each in ours for k, v in vars(each).items()}.items():
        meant = None if name in _ASKED else _find_close(name, asked, 0.88)
        is_operation = inspect.isfunction(value) and _takes_request(value, "self")
        if name in old or meant and not is_operation:
            advice = old.get(name) or f"did you mean {meant}?"
            what = f"{cls.__module__}.{cls.__name__}.{name}"
            raise ImproperlyConfigured(f"Nothing asks {what}: {advice}")


def _refuse_reverse_relations(model, endpoint_class):
    """Refuse `fields` that name what refers to the model: it is no record to show."""
    named = {*(endpoint_class.fields or ())}
    for field in model._meta.get_fields() if named else ():
        if field.one_to_many or field.auto_created and not field.concrete:
            accessor = getattr(field, "get_accessor_name", lambda: None)()
            for name in named & {field.name, accessor}:
                what = f"{endpoint_class.__name__}.fields names {name}"
                advice = "a reverse relation: name a method that lists it."
                raise ImproperlyConfigured(f"{what}, {advice}")


def _label(model):
    meta = getattr(model, "_meta", None)
    return getattr(meta, "label", f"{model.__module__}.{model.__name__}")


def _paths_of(model, endpoint_class):
    """Return the (application, name) pairs under which a model or form is found."""
    name = model.__name__.lower()
    labels = [model._meta.app_label] if issubclass(model, models.Model) else []
    modules = {model.__module__: None, endpoint_class.__module__: None}
    configs = [apps.get_containing_app_config(m) for m in modules if m != __name__]
    labels += [config.label for config in configs if config]
    if not labels:
        raise ImproperlyConfigured(f"{_label(model)} is of no installed app.")
    return [(label, name) for label in dict.fromkeys(labels)]


endpoint = _EndpointRegistry()


def register(*served) -> Callable[[type], type]:
    """Decorate an endpoint class to serve models or forms, as `endpoint.register`."""

    def decorate(endpoint_class):
        endpoint.register(served, endpoint_class)
        return endpoint_class

    return decorate


# --- The apps' endpoints.py -----------------------------------------------------------


class _Discovery:
    """The ad-hoc endpoints of all apps, found once, on first use. If an endpoints.py
    fails, the registries are as before: half of the endpoints would be wrong."""

    def __init__(self):
        self.lock = threading.RLock()
        self.is_started = False
        self.error = None
        self.functions = {}

    def run(self):
        """Import every app's endpoints.py; raise ImproperlyConfigured if one fails."""
        with self.lock:  # Threads wait; an endpoints.py may get here again.
            if not self.is_started:
                self.is_started = True
                self._import_all()
        if self.error:
            raise ImproperlyConfigured(self._describe_error()) from self.error[1]

    def _import_all(self):
        registries = (endpoint, encoder)
        before = [{k: copy.copy(v) for k, v in vars(r).items()} for r in registries]
        try:
            for config in apps.get_app_configs():
                where = f"{config.name}.endpoints"
                self.functions |= _import_functions(config)
        except BaseException as error:
            self.error = (where, error)
            for registry, state in zip(registries, before, strict=True):
                vars(registry).update(state)
            if not isinstance(error, Exception):
                raise

    def _describe_error(self):
        """Return a sentence about an endpoints.py that fails, with file and line."""
        where, error = self.error
        frames = traceback.extract_tb(error.__traceback__)
        own = [each for each in frames if each.filename.endswith("endpoints.py")]
        file, line, *_rest = (own or frames)[-1]
        if isinstance(error, SyntaxError):
            file, line = error.filename, error.lineno
        what = f"{type(error).__name__}: {getattr(error, 'msg', error)}"
        return f"{where} cannot be imported: {what} ({file}, line {line})."


def _import_endpoints(config):
    """Import an app's endpoints.py; return the module, None if there is none."""
    if not module_has_submodule(config.module, "endpoints"):
        return None
    module = importlib.import_module(f"{config.name}.endpoints")
    return None if module is sys.modules[__name__] else module


def _import_functions(config):
    if (module := _import_endpoints(config)) is None:
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
    """Whether a value is an endpoint object, or a module's own view function."""
    inner = inspect.unwrap(value) if callable(value) else value
    if not inspect.isfunction(inner):
        return isinstance(inner, BaseEndpoint) and callable(inner)
    return value.__module__ == module.__name__ and _takes_request(value)


_discovery = _Discovery()


def _autodiscover():
    """Import every app's endpoints.py once; raise ImproperlyConfigured if one fails."""
    _discovery.run()


# --- Dispatch -------------------------------------------------------------------------


class _CsrfCheck(CsrfViewMiddleware):
    """Django's check, run by the view, so that its refusal can be JSON: `_reject`,
    which is private, is where Django turns a reason into an HTML page."""

    def _reject(self, request, reason):
        return reason


def _check_csrf(request, view):
    """Raise AJAXError 403, with a token to try again, unless the request has one."""
    check = _CsrfCheck(dispatch)
    if "CSRF_COOKIE" not in request.META:
        check.process_request(request)
    reason = check.process_view(request, view, (), {})
    if reason:
        if reason.startswith(("Origin", "Referer")):
            raise AJAXError(403, reason, csrf=True)
        how = _("Send the token, the cookie %(cookie)s or csrf of this, as %(header)s.")
        how %= {"cookie": settings.CSRF_COOKIE_NAME, "header": _get_header_name()}
        raise AJAXError(403, f"{reason} {how}", csrf=get_token(request))


def _get_header_name():
    name = settings.CSRF_HEADER_NAME.removeprefix("HTTP_")
    return "X-CSRFToken" if name == "X_CSRFTOKEN" else name.replace("_", "-").title()


def _keep_csrf_cookie(request, response):
    """Set the CSRF cookie if it changed, as at login, and no middleware will."""
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
    # Some of Python's codecs are not for text, and some are very slow.
    if (request.encoding or "utf-8").lower() not in ("utf-8", "utf8"):
        raise AJAXError(400, _("Send UTF-8, as browsers do."))


def _resolve(
    app=None, name=None, model=None, pk=None, operation=None, tags=None, command=None,
    **_mount,
):  # fmt: skip
    """Return the endpoint at a path, its operation found, or raise AJAXError 404."""
    _autodiscover()
    function = _discovery.functions.get((app, name))
    if function is not None:
        return function
    served = endpoint._paths.get((FormEndpoint, app, name))
    served = served or endpoint._paths.get((ModelEndpoint, app, name or model))
    if served is None:
        raise _missing(_("AJAX endpoint does not exist."), f"{app}/{name or model}")
    method = tags or operation or "create"
    found = endpoint._registry[served](app, served, method, pk, command)
    found._operation = found._find_operation()
    if getattr(getattr(found, found._operation.method), "csrf_exempt", False):
        found.csrf_exempt = True
    return found


def _missing(message, sent, names=None):
    """Return the AJAXError 404 for a name that is not there; in DEBUG with what is."""
    if names is None:
        served = [each[1:] for each in endpoint._paths]
        names = ["/".join(each) for each in (*_discovery.functions, *served)]
    close = settings.DEBUG and _find_close(sent.lower(), names, 0.75)
    known = ", ".join(sorted(names)[:_MAX_UNKNOWN_KEYS]) or "nothing"
    hint = f"Did you mean {close}?" if close else f"There is: {known}."
    return AJAXError(404, message, **_hint(hint))


@csrf_exempt
@login_not_required
def dispatch(request, **segments):
    """Answer a request: resolve its path, check CSRF, authorize, read its body, run."""
    try:
        if "app" in segments:
            _check_request(request)
        found = _resolve(**segments)
        _check_csrf(request, found)
        found._authorize(request)
        _read_body(request)
        with contextlib.ExitStack() as stack:
            _enter_atomic_requests(stack, found, not found._operation.reads)
            response = _success_response(found._run(request), request)
    except Exception as error:
        response = _error_response(request, error)
    return _keep_csrf_cookie(request, response)


dispatch._non_atomic_requests = _EveryAlias()


# --- For the page ---------------------------------------------------------------------


@login_not_required
@require_safe
@json_response
def _serve_page_text(request, name="", **_mount):
    """Serve client.js to everybody, the explorer in DEBUG and to active staff."""
    user, is_client = getattr(request, "user", None), name == "client.js"
    if not (is_client or settings.DEBUG or user and user.is_active and user.is_staff):
        raise Http404
    own = {"CSRF_TOKEN": get_token(request)}  # Its cookie is sent, too.
    own |= {"csrftoken": settings.CSRF_COOKIE_NAME, "X-CSRFToken": _get_header_name()}
    kind, text = _TEXTS.get(name, (_JSON_TYPE, None))
    for usual, given in own.items() if text else ():
        text = text.replace(_dump(usual), _dump(given), 1)
    text = text or _dump(_describe_api(request))
    cache = "private, no-cache" if is_client else "no-store"
    headers = {"Cache-Control": cache, "Vary": "Cookie", "X-Frame-Options": "DENY"}
    headers["X-Content-Type-Options"] = "nosniff"
    response = HttpResponse(text, f"{kind}; charset=utf-8", headers=headers)
    response = ConditionalGetMiddleware(lambda request: response)(request)
    return _keep_csrf_cookie(request, response)


# --- OpenAPI --------------------------------------------------------------------------

_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}


def _describe_list(items):
    return {"type": "array", "items": items}


def _describe_object(properties, required=None):
    required = [*(properties if required is None else required)]
    return {"type": "object", "properties": properties, "required": required}


_TAG = _describe_object({"pk": {}, "name": _TEXT, "slug": _TEXT})


def _describe_field(field, is_sent=False):
    """Return the schema of what a field, of a model or a form, gives or is sent."""
    if _is_tags_manager(field):
        return _describe_list(_TEXT if is_sent else _TAG)
    related = getattr(getattr(field, "queryset", None), "model", None)
    related = related or getattr(field, "related_model", None)
    typed = _root_key(related) if related else getattr(field, "output_field", field)
    kind = _find_kind(typed)
    schema = {"type": [*kind.types]} if kind.types else {}
    is_naive = kind.format == "date-time" and not settings.USE_TZ  # No RFC 3339, then.
    if kind.format and not is_naive:
        is_url = isinstance(field, models.FileField) and not is_sent
        schema["format"] = "uri-reference" if is_url else kind.format
    if related:
        schema["x-ajax"] = {"pk_of": related._meta.label_lower.replace(".", "/")}
    elif is_sent and getattr(field, "choices", None):
        schema["oneOf"] = [
            {"const": _to_plain(value), "title": str(title)}
            for value, title in flatten_choices(field.choices)
            if value not in ("", None)
        ]
    elif is_sent and not kind.format and getattr(field, "max_length", None):
        schema["maxLength"] = field.max_length
    if isinstance(getattr(field, "widget", field), (forms.Textarea, models.TextField)):
        schema["x-ajax"] = {"multiline": True}
    several = (forms.MultipleChoiceField, forms.ModelMultipleChoiceField)
    if getattr(field, "many_to_many", False) or isinstance(field, several):
        schema = _describe_list(schema)
    elif getattr(field, "null", False) and "null" not in schema.get("type", ["null"]):
        schema["type"].append("null")
        schema.get("oneOf", []).append({"const": None, "title": "null"})
    text = str(getattr(field, "help_text", ""))
    return schema | {"description": text} if text else schema


def _describe_call(path, doc, who, body=None, required=(), reply=None, asks=""):
    """Return an operation of OpenAPI by its path."""
    summary, _line, rest = inspect.cleandoc(doc or "").partition("\n")
    schemes = ["csrf"] + ["csrfCookie"] * (not settings.CSRF_USE_SESSIONS)
    schemes += ["session"] * who.startswith(("Logged", "Nobody"))
    schema = _describe_object({"success": {"const": True}, "data": {}, **(reply or {})})
    content = {_JSON_TYPE: {"schema": schema}}
    call = {
        "operationId": path.replace("/", ".").replace("{pk}", "pk"),
        "tags": [path.rpartition("/")[0].partition("/{pk}")[0]],
        "summary": summary,
        "description": rest.strip(),
        "security": [dict.fromkeys(schemes, [])],
        "responses": {
            "200": {"description": "Success.", "content": content},
            "default": {"$ref": "#/components/responses/failure"},
        },
        "x-ajax": {"who": who} | ({"asks": asks} if asks else {}),
    }
    if body is not None:
        has_file = any(each.get("format") == "binary" for each in body.values())
        content = {"schema": _describe_object(body, required) if body else {}}
        content = dict.fromkeys((_JSON_TYPE, _TYPES[has_file]), content)
        call["requestBody"] = {"required": bool(required), "content": content}
    return f"/{path}.json", {"post": call}


def _describe_who(model_endpoint, hook=None, permission=""):
    """Say in a sentence who may call, and which hook decides."""
    cls, name, who = (
        type(model_endpoint),
        type(model_endpoint).__name__,
        "Logged-in users",
    )
    if hook == "can_list" and not _overrides(cls, hook):
        return f"Nobody, until {name}.can_list allows."
    if cls.authenticate is not _ServedEndpoint.authenticate:
        who = f"Whom {name}.authenticate lets in"
    elif hasattr(settings, "AJAX_AUTHENTICATION"):
        who = "Whom AJAX_AUTHENTICATION lets in"
    if hook and _overrides(cls, hook):
        who += f", if {name}.{hook} allows"
    if permission and model_endpoint._wants_permissions:
        who += f", with the permission to {permission}"
    return f"{who}."


def _describe_model(path, model_endpoint):
    """Yield the calls of a model."""
    model, plan = model_endpoint.model, model_endpoint._plan
    fields = {name: part.field for name, part in plan.writable.items() if name != "pk"}
    body = {name: _describe_field(field, True) for name, field in fields.items()}
    given = (name for name, f in fields.items() if not (f.blank or f.many_to_many))
    required = [name for name in given if not fields[name].has_default()]
    record = {"$ref": f"#/components/schemas/{model._meta.label_lower}"}
    only_pk, rows = _describe_object({"pk": {}}), {"data": _describe_list(record)}
    written = {"data": {"anyOf": [record, only_pk]} if plan.hides else record}
    pages = ("total", "total_pages", "current_page", "items_per_page")
    shapes = {
        "create": (body, required, written),
        "list": (
            _ListOptions(model_endpoint).describe(),
            (),
            rows | dict.fromkeys(pages, _NUMBER),
        ),
        "get": (None, (), {"data": record}),
        "update": (body, (), written),
        "delete": (None, (), {"data": only_pk}),
    }
    for name, operation in _operations(type(model_endpoint)).items():
        shape, doc = (
            shapes.get(name, ({}, (), None)),
            getattr(model_endpoint, name).__doc__,
        )
        for is_on_record in (False, True) if model_endpoint._offers(name) else ():
            if operation.on_record in (None, is_on_record):
                where = f"{path}/{{pk}}/{name}" if is_on_record else f"{path}/{name}"
                hook = operation.hook if is_on_record or name in shapes else None
                who = _describe_who(model_endpoint, hook, operation.permission)
                yield _describe_call(where, doc, who, *shape, asks=operation.asks)
    for name, command in itertools.product(plan.managers, _COMMANDS):
        operation = _COMMANDS[command]
        if model_endpoint._offers(name) and (operation.reads or name in plan.writable):
            takes = {"tags": _describe_list(_TEXT)} if command != "clear" else None
            shape = (takes, takes or (), {"data": _describe_list(_TAG)})
            shape = (None, (), rows) if operation.reads else shape
            who = _describe_who(model_endpoint, operation.hook, operation.permission)
            where, doc = f"{path}/{{pk}}/{name}/{command}", f"Tags: {command}."
            yield _describe_call(where, doc, who, *shape, asks=operation.asks)


def _describe_calls(request, schemas):
    """Yield all calls by their paths; put the schemas of models where others are."""
    for (label, name), found in _discovery.functions.items():
        is_guarded = getattr(found.view, "wants_login", found.wants_login)
        who = "Logged-in users." if is_guarded else "Everybody."
        yield _describe_call(f"{label}/{name}", found.view.__doc__, who, {})
    for (base, label, name), served in endpoint._paths.items():
        path, cls = f"{label}/{name}", endpoint._registry[served]
        model_endpoint = cls(label, served, "create")
        model_endpoint.request = request
        if base is FormEndpoint:
            fields, who = served.base_fields.items(), _describe_who(model_endpoint)
            body = {name: _describe_field(field, True) for name, field in fields}
            required = [name for name, field in fields if field.required]
            yield _describe_call(path, served.__doc__, who, body, required)
            continue
        record = model_endpoint._plan.describe(is_written=True)
        schemas[served._meta.label_lower] = record
        pk = {"name": "pk", "in": "path", "required": True}
        pk = [pk | {"schema": _describe_field(_root_key(served))}]
        for where, item in _describe_model(path, model_endpoint):
            yield where, item | ({"parameters": pk} if "{pk}" in where else {})


def _describe_api(request):
    """Return OpenAPI 3.1 of what is served, made of what dispatch and the plans use."""
    _autodiscover()
    modules = filter(None, map(_import_endpoints, apps.get_app_configs()))
    about = "\n\n".join(inspect.getdoc(each) or "" for each in modules).strip()
    schemas = {}
    calls = dict(_describe_calls(request, schemas))
    cookie = {"type": "apiKey", "in": "cookie"}
    schemes = {
        "session": cookie | {"name": settings.SESSION_COOKIE_NAME},
        "csrf": cookie | {"in": "header", "name": _get_header_name()},
    }
    if not settings.CSRF_USE_SESSIONS:
        schemes["csrfCookie"] = cookie | {"name": settings.CSRF_COOKIE_NAME}
    user = getattr(request, "user", None)
    you = user if user and user.is_authenticated else "not logged in"
    error = _describe_object({"code": _NUMBER, "message": _TEXT})
    failure = _describe_object({"success": {"const": False}, "data": error})
    failure = {"description": "Failure.", "content": {_JSON_TYPE: {"schema": failure}}}
    parts = {"responses": {"failure": failure}, "securitySchemes": schemes}
    return {
        "openapi": "3.1.0",
        "info": {"title": "ajax.py", "version": __version__, "description": about},
        "servers": [{"url": request.path.removesuffix("/openapi.json") or "/"}],
        "paths": calls,
        "components": {"schemas": schemas} | parts,
        "x-ajax": {"you": f"You are {you}."},
    }


_RECORD = "<str:app>/<str:model>/<str:pk>"
urlpatterns = [
    path("", _serve_page_text, name="explorer"),
    path("client.js", _serve_page_text, {"name": "client.js"}, name="client"),
    path("openapi.json", _serve_page_text, {"name": "openapi.json"}, name="openapi"),
    re_path(r"^(?P<name>explorer\.(?:js|css))\Z", _serve_page_text, name="served"),
    path("<str:app>/<str:name>.json", dispatch, name="endpoint"),
    path("<str:app>/<str:model>/<str:operation>.json", dispatch, name="model"),
    path(f"{_RECORD}/<str:operation>.json", dispatch, name="record"),
    path(f"{_RECORD}/<str:tags>/<str:command>.json", dispatch, name="tags"),
    re_path(r"^[\s\S]*\.json\Z", dispatch, name="not_found"),
]


# --- Checks and AppConfig -------------------------------------------------------------


# Each check yields its number, a message and a hint.


def _check_exposure():
    """W004: what the author of an endpoints.py may think is exposed."""
    hint = "Call its first parameter request, extend BaseEndpoint, decorate with "
    hint += "functools.wraps; or begin its name with _, or say what is in __all__."
    for module in filter(None, map(_import_endpoints, apps.get_app_configs())):
        named = () if hasattr(module, "__all__") else vars(module).items()
        for name, value in named:
            own = getattr(value, "__module__", None) == module.__name__
            is_called = own and not isinstance(value, type) and _takes_one(value)
            if name[0] != "_" and is_called and not _is_endpoint(value, module):
                yield "W004", f"{module.__name__}.{name} is not exposed.", hint


def _check_copies():
    """E004: a second copy of this file, with registries of its own."""
    for name, module in sorted(sys.modules.items()):
        own = getattr(getattr(module, "ModelEndpoint", None), "__module__", None)
        if own == name != __name__ and hasattr(module, "AjaxConfig"):
            hint = f"Import it as {__name__}: each copy has its own registry."
            yield "E004", f"{__name__} is also imported as {name}.", hint


class _Names:
    """What the names in each class attribute of an endpoint have to be."""

    def __init__(self, model, endpoint_class):
        self.model = model
        self.endpoint_class = endpoint_class
        self.shown = {*_model_fields(model), *_pk_names(model)}

    def is_extra(self, name):
        """Whether a name is a property's or method's of the endpoint or the model."""
        return _defines(self.endpoint_class, name) or hasattr(self.model, name)

    def is_lookup(self, name):
        """Whether a name is one for `filter()`: the database is not asked."""
        try:
            self.model._base_manager.filter((name, None))
        except core_exceptions.FieldError:
            return False
        except (TypeError, ValueError, ValidationError):
            pass  # There is such a lookup, but not for this value.
        return bool(name)

    def fields(self, name):
        return name in self.shown or self.is_extra(name)

    exclude = readonly_fields = immutable_fields = fields

    def expand(self, name):
        field, rest = _end_of_path(self.model, name)
        is_key = isinstance(field, models.ForeignKey) and not rest
        return is_key or name not in self.shown and self.is_extra(name)

    def ordering(self, name):
        return name in ("?", "-?") or self.is_lookup(name.lstrip("-"))

    def sortable_by(self, name):
        from django.contrib.admin.utils import lookup_spawns_duplicates

        is_repeated = lookup_spawns_duplicates(self.model._meta, name)
        return self.is_lookup(name) and not is_repeated

    def search_fields(self, name):
        return self.is_lookup(name.lstrip("^=@"))

    def list_filter(self, name):
        return self.is_lookup(name) and _is_offered(*_end_of_path(self.model, name))

    def operations(self, name):
        field = _model_fields(self.model).get(name)
        is_manager = field is not None and _is_tags_manager(field)
        return is_manager or name in _operations(self.endpoint_class)


#: By class attribute.
_RULES = {n: f for n, f in vars(_Names).items() if n in _ASKED}


def _check_names(model, endpoint_class):
    """E002: class attributes that name what is not there."""
    rules = _Names(model, endpoint_class)
    close_to = [*rules.shown, *_operations(endpoint_class)]
    for attribute, is_known in _RULES.items():
        names = getattr(endpoint_class, attribute, None) or ()
        if isinstance(names, int) or names == "__all__":
            continue
        is_text = isinstance(names, str)  # In the place of a list.
        for name in [names] if is_text else names:
            if attribute == "ordering" and not isinstance(name, str):
                continue  # An expression.
            if is_text or not isinstance(name, str) or not is_known(rules, name):
                what = f"{endpoint_class.__name__}.{attribute} names {name!r}"
                what += f", which {model._meta.label} does not have or offer."
                close = _find_close(str(name), close_to)
                advice = f"Did you mean {close}?" if close else "Correct it."
                yield "E002", what, advice


def _check_hidden_create(model, endpoint_class):
    """E003: an ad-hoc endpoint or form in the place where a model's create would be."""
    if "create" not in (endpoint_class.operations or ("create",)):
        return
    hint = "Rename the ad-hoc endpoint or form, or leave it out of __all__."
    for where in _paths_of(model, endpoint_class):
        if where in _discovery.functions or (FormEndpoint, *where) in endpoint._paths:
            what = f"What is at {'/'.join(where)}.json hides the create of"
            yield "E003", f"{what} {_label(model)}.", hint


def _check_expansions(model, endpoint_class):
    """W001: a model shown whole by expansion, though nobody said what it may show."""
    for each in dict.fromkeys(_Plan(model, endpoint_class, True).expanded):
        is_said = encoder.find(each) or endpoint.find(each) is not ModelEndpoint
        if not (is_said or _is_user_model(each)):
            hint = f"Register an endpoint or encoder for {each.__name__} (fields = "
            hint += '"__all__" says yes, all), or leave it out of `expand`.'
            yield "W001", f"{endpoint_class.__name__} shows {_label(each)} whole.", hint


def _check_totals(model, endpoint_class):
    """W003: records that can_get hides, but that still count in `total`."""
    overrides = partial(_overrides, endpoint_class)
    is_listed = "list" in (endpoint_class.operations or ["list"])
    hides = overrides("can_get") and not overrides("get_queryset")
    if is_listed and overrides("can_list") and hides:
        what = f"{endpoint_class.__name__} overrides can_get, not get_queryset: what "
        what += "it refuses still shows in totals, of searches and filters too."
        yield "W003", what, "Refuse it in get_queryset, or `list` in operations."


def _run_checks(app_configs=None, **kwargs):
    """Return what Django's system checks have to say about the project's endpoints."""
    found = [(None, *each) for each in _check_copies()]
    try:
        _autodiscover()
    except ImproperlyConfigured as error:
        hint = "Until it is mended, every request is answered with status 500."
        found.append((None, "E001", str(error), hint))
    else:
        found += [(None, *each) for each in _check_exposure()]
        for model, cls in endpoint._registry.items():
            if issubclass(cls, ModelEndpoint):
                of_model = [*_check_names(model, cls)]
                # No plan can be made of names that are not there.
                rest = (_check_hidden_create, _check_totals, _check_expansions)
                of_model = of_model or [each for c in rest for each in c(model, cls)]
                found += [(cls, *each) for each in of_model]
    kinds = {"E": checks.Error, "W": checks.Warning}
    return [kinds[n[0]](text, hint, obj, f"ajax.{n}") for obj, n, text, hint in found]


def _watch_endpoints(sender, **kwargs):
    """Let runserver recover: it does not watch a module whose import failed."""
    for config in apps.get_app_configs():
        if pathlib.Path(config.path).is_dir():
            sender.watch_dir(config.path, "endpoints.py")


autoreload_started.connect(_watch_endpoints)


class AjaxConfig(AppConfig):
    """The app, for those who list it in INSTALLED_APPS: it adds the system checks."""

    name = __name__

    def ready(self):
        checks.register(_run_checks)


# --- The old package's import paths ---------------------------------------------------

#: An app of one file has no folder, so it claims no templates, static files or
#: commands.
__path__ = [__file__]

if __name__ != "__main__":
    # As os.path does it: `from ajax.exceptions import AJAXError` is this module again.
    # Django finds AjaxConfig through `.apps`; `.models` there are none.
    sys.modules[f"{__name__}.apps"] = sys.modules[__name__]
    _old = "authentication decorators encoders endpoints exceptions signals urls views"
    for _name in _old.split():
        globals()[_name] = sys.modules[f"{__name__}.{_name}"] = sys.modules[__name__]


# --- Demo -----------------------------------------------------------------------------

#: The demo's app, as anybody would write it: it runs, and its visitor reads it.
_DEMO = """
# demo/models.py
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

# demo/endpoints.py
import ajax
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
"""


def _log_in_demo(get_response):
    def log_in(request):
        request.user = apps.get_model("auth.User").objects.get(username="demo")
        return get_response(request)

    return log_in


def _write_demo(folder):
    demo = _DEMO.replace("import ajax\n", f"import {__name__} as ajax\n")
    demo += f"\n__doc__ = {_DEMO!r}\n"  # What the explorer begins with.
    _before, *parts = re.split(r"^# (\S+\.py)$", demo, flags=re.MULTILINE)
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        file = pathlib.Path(folder, name)
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    sys.path.insert(0, folder)


def _fill_demo():
    demo = apps.get_model("auth.User").objects.create(username="demo")
    news = apps.get_model("demo.Category").objects.create(title="News")
    posts = apps.get_model("demo.Post").objects
    for title, tag in (("Ten minutes of work", "ajax"), ("No tears", "json")):
        made = posts.create(category=news, author=demo, title=title)
        made.liked_by.add(demo)
        if hasattr(made, "tags"):
            made.tags.add("django", tag)


def _demo_settings(folder):
    auth = ["django.contrib.contenttypes", "django.contrib.auth"]
    taggit = ["taggit"] if importlib.util.find_spec("taggit") else []
    engine = "django.db.backends.sqlite3"
    common = "django.middleware.common.CommonMiddleware"  # It checks the host.
    urls = types.ModuleType("demo_urls")
    to_explorer = RedirectView.as_view(pattern_name="ajax:explorer")
    urls.urlpatterns = [path("", to_explorer), path("ajax/", include(__name__))]
    return {
        "DEBUG": True,
        "SECRET_KEY": uuid.uuid4().hex * 2,
        "ROOT_URLCONF": urls,
        "MIDDLEWARE": [common, f"{__name__}._log_in_demo"],
        "INSTALLED_APPS": [*auth, *taggit, __name__, "demo"],
        "DATABASES": {"default": {"ENGINE": engine, "NAME": f"{folder}/demo.sqlite3"}},
    }


def _serve_demo():
    """Serve the demo on 127.0.0.1, port 8000 or the one that is given, until Ctrl-C."""
    import tempfile

    import django
    from django.core.management import call_command

    port = [*sys.argv[1:], "8000"][0]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        _write_demo(folder)
        settings.configure(**_demo_settings(folder))
        django.setup()
        call_command("migrate", run_syncdb=True, verbosity=0)
        _fill_demo()
        # Any token will do, as long as cookie and header agree.
        send = "curl -b csrftoken={0} -H X-CSRFToken:{0} -d q=".format("x" * 32)
        print(f"http://127.0.0.1:{port}/ shows what can be called. Or, in a terminal:")
        print(f"{send} http://127.0.0.1:{port}/ajax/demo/post/1/get.json", flush=True)
        call_command("runserver", f"127.0.0.1:{port}", use_reloader=False)


# --- The page's texts -----------------------------------------------------------------

_CLIENT = r"""/** Call the endpoints of ajax.py from a page.
 *
 *     import ajax from "/ajax/client.js";
 *     const post = await ajax("blog/post/1/update", {title: "Hello again"});
 *
 * The data is an object (files may be in it), a FormData or a <form>; a third argument
 * may hold a signal. A call that fails throws an AJAXError.
 */
const COOKIE = "csrftoken", HEADER = "X-CSRFToken", INPUT = "csrfmiddlewaretoken";
let fresh; // the token that a refusal came with: it changes at login

/** Call; give the data of the reply. */
export default async function ajax(path, data, options) {
  return (await ajax.reply(path, data, options)).data;
}

/** Call; give the whole reply: of a list, `total` and the like stand beside `data`. */
ajax.reply = async (path, data, options) => {
  const response = await ajax.fetch(path, data, options);
  const reply = await parsed(response, options?.signal);
  if (reply?.success === true) return reply;
  if (reply?.success === false)
    throw new AJAXError(reply.data.message, {response, reply});
  const type = response.headers.get("Content-Type") ?? "nothing";
  const what = `${response.url} answered ${response.status} with ${type}`;
  throw new AJAXError(`${what}, which is no reply of ajax.py.`, {response});
};

/** Call; give the Response as it came, for an endpoint that answers with a file. */
ajax.fetch = async (path, data = {}, {signal} = {}) => {
  const segments = path.split("/");
  if (segments.some(each => ["", ".", ".."].includes(each)))
    throw new TypeError(`"${path}" has a segment that is empty, . or ..`);
  const url = new URL(`${segments.map(encodeURIComponent).join("/")}.json`, import.meta.url);
  const body = encoded(data), json = {"Content-Type": "application/json"};
  const send = () => {
    const headers = {...typeof body === "string" && json, [HEADER]: token()};
    return fetch(url, {method: "POST", headers, body, signal}).catch(lost(signal));
  };
  const response = await send();
  const reply = response.status === 403 && await parsed(response, signal);
  if (typeof reply?.csrf !== "string") return response;
  fresh = reply.csrf;
  return send();
};

/** Show the errors of a failed call at its form's inputs; give the text of all else. */
ajax.showErrors = (form, {message, errors}) => {
  const inputs = [...form.elements], rest = [];
  const clear = () => inputs.forEach(input => input.setCustomValidity?.(""));
  clear();
  for (const [name, messages] of Object.entries(errors ?? {__all__: [message]})) {
    const input = inputs.find(each => each.name === name && each.willValidate);
    if (input) input.setCustomValidity(messages.join(" "));
    else rest.push((name === "__all__" ? "" : `${name}: `) + messages.join(" "));
  }
  form.reportValidity();
  // A click or key too, also outside of it: it could not be sent else.
  for (const event of ["input", "click", "keydown"])
    document.addEventListener(event, clear, {once: true, capture: true});
  return rest.join("\n");
};

/** A failed call. Its code is the status, 0 where no answer came. */
export class AJAXError extends Error {
  constructor(message, {response, reply, cause} = {}) {
    super(message, {cause});
    const code = response?.status ?? 0, {errors, hint, login_url: login} = reply ?? {};
    Object.assign(this, {name: "AJAXError", code, errors, hint, reply, response});
    if (!login) return;
    const url = new URL(login, location), {origin, href} = location;
    const next = url.origin === origin ? href.slice(origin.length) : href;
    url.searchParams.set("next", next);
    this.loginUrl = url.href;
  }
}

/** Of a call that fails: an abort may give any reason. */
const lost = signal => cause => {
  const what = signal?.aborted ? "The call was aborted." : "The server cannot be reached.";
  throw new AJAXError(what, {cause});
};

/** Read JSON, leaving the response itself unread; give nothing for what is no JSON. */
async function parsed(response, signal) {
  const text = await response.clone().text().catch(lost(signal));
  try { return JSON.parse(text); } catch { return undefined; }
}

/** Find the token; of several cookies of the name, Django takes the last. */
function token() {
  const cookies = document.cookie.split("; "), start = `${COOKIE}=`;
  const cookie = cookies.findLast(each => each.startsWith(start))?.slice(start.length);
  return fresh ?? cookie ?? document.querySelector(`[name=${INPUT}]`)?.value ?? "";
}

/** Turn data into JSON, or where it is a form or holds files, into FormData. */
function encoded(data) {
  const isForm = data instanceof HTMLFormElement, values = Object.values(data ?? {});
  const body = new FormData(isForm ? data : undefined);
  if (isForm) addEmpty(data, body);
  else if (data instanceof FormData) for (const each of data) body.append(...each);
  else if (values.flat().some(each => each instanceof Blob)) addValues(data, body);
  else return JSON.stringify(data);
  body.delete(INPUT); // it may be older than the cookie
  return body;
}

/** Add what browsers leave out: boxes not ticked, lists with nothing chosen. */
function addEmpty(form, body) {
  const inputs = [...form.elements].filter(each => each.name && !each.matches(":disabled"));
  for (const {name, type, value} of inputs) {
    if (body.has(name) || !["checkbox", "select-multiple"].includes(type)) continue;
    const isLone = inputs.filter(each => each.name === name).length === 1;
    const isBoolean = type === "checkbox" && isLone && /^(on|true)$/i.test(value);
    body.append(name, isBoolean ? "false" : "");
  }
}

/** Add what JSON would hold: of a list each value, below a key that ends with []. */
function addValues(data, body) {
  for (const [name, value] of Object.entries(data)) {
    const isList = Array.isArray(value) && value.length > 0;
    for (const each of isList ? value : value === undefined ? [] : [value]) {
      const plain = each?.toJSON?.() ?? (each?.length === 0 ? "" : each ?? "");
      const isPlain = plain instanceof Blob || typeof plain === "string";
      body.append(isList ? `${name}[]` : name, isPlain ? plain : JSON.stringify(plain));
    }
  }
}
"""  # noqa: E501

_EXPLORER = r"""/** The explorer: shows what openapi.json says, and calls it by client.js. */
import ajax, {AJAXError} from "./client.js";

const api = await (await fetch(new URL("openapi.json", import.meta.url))).json();
const $ = selector => document.querySelector(selector);
const own = schema => schema["x-ajax"] ?? {};
const types = schema => [schema.type ?? ["JSON"]].flat();

/** Make an element; of its children what is no element becomes text, never HTML. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(each => each[1] !== false && element.setAttribute(...each));
  element.append(...children.filter(Boolean));
  return element;
}

const calls = Object.entries(api.paths ?? {}).map(([path, {post, parameters}]) => {
  const name = path.slice(1).replace(/\.json$/, ""), group = post.tags[0];
  const pattern = new RegExp(`(?:^|/)${name.replace("{pk}", "([^/]+)")}(?:\\.json)?$`);
  return {...post, ...own(post), name, pattern, group, prefix: name.replace(/[^/]+$/, ""), pk: parameters?.[0].schema};
});

/** Find the call that a path or URL is of, and the pk in it. */
function find(text) {
  const found = calls.map(call => ({call, match: call.pattern.exec(text.trim())}));
  const [first] = found.filter(each => each.match).sort((a, b) => a.match.index - b.match.index);
  const pk = first?.match[1]?.replace(/^\{pk\}$/, "") ?? "";
  try { return {...first, pk: decodeURIComponent(pk)}; } catch { return {...first, pk}; }
}

/** Say what a schema takes. */
function words(schema) {
  const {items, format, maxLength} = schema, {pk_of: model} = own(schema), [type, ...more] = types(schema);
  const formats = {binary: "file", byte: "base64", "time-local": "time"};
  const kinds = {string: "text", integer: "whole number", boolean: "true or false", ...formats};
  const what = model ? `pk of ${model}` : items ? `list of ${words(items)}` : kinds[format] ?? format ?? kinds[type];
  return `${what ?? type}${more.includes("null") ? " or null" : ""}${maxLength ? `, at most ${maxLength}` : ""}`;
}

/** Make a field: its name and type, its box, help, and a place for errors. */
function field(call, name, schema, isRequired) {
  const id = `${call.name}:${name}`, bad = make("span", {class: "bad"});
  const box = makeBox(schema, {id, "aria-describedby": `${id}-type ${id}-help`, autocomplete: "off"});
  const type = make("small", {id: `${id}-type`}, words(schema), isRequired && ", required");
  const help = make("small", {id: `${id}-help`}, bad, schema.description);
  return {name, schema, box, bad, row: make("div", {class: "field"},
    make("div", {}, make("label", {for: id}, name), type), make("div", {}, box, help))};
}

function makeBox(schema, attributes) {
  const inputs = {binary: "file", date: "date", "date-time": "datetime-local", "time-local": "time"};
  const [type, ...more] = types(schema), states = [true, false, ...more.includes("null") ? [null] : []];
  const choices = type === "boolean" ? states.map(each => ({const: each})) : schema.oneOf;
  if (own(schema).multiline || type === "JSON") return make("textarea", attributes);
  if (!choices) return make("input", {...attributes, type: inputs[schema.format] ?? "text"});
  return make("select", attributes, make("option", {value: ""}, "not sent"), ...choices.map(each =>
    make("option", {value: JSON.stringify(each.const)}, each.title ?? `${each.const}`)));
}

function read(schema, text) {
  const [type, ...more] = types(schema);
  if (text === "null" && more.includes("null")) return null;
  if (type === "string") return text === '""' ? "" : text;
  if (["integer", "number"].includes(type)) return String(Number(text)) === text ? Number(text) : text;
  if (type === "array" && text[0] !== "[") return text.split(",").map(each => read(schema.items, each.trim()));
  return JSON.parse(text);
}

/** Read all fields that hold something; what cannot be read is said at its box. */
function collect(fields) {
  const data = {};
  for (const {name, schema, box} of fields) {
    box.setCustomValidity("");
    try {
      const value = () => (box.options ? JSON.parse(box.value) : read(schema, box.value));
      if (box.value) data[name] = box.files?.[0] ?? value();
    } catch (error) { box.setCustomValidity(error.message); }
  }
  return fields[0]?.isBody ? data.body : data;
}

/** Put the errors of a reply beside their fields; give the text of all else. */
function complain({message, errors = {}, hint}, fields) {
  const rest = new Map(Object.entries(errors));
  for (const {name, box, bad} of fields) {
    bad.textContent = rest.get(name)?.join(" ") ?? "";
    box.setAttribute("aria-invalid", rest.delete(name));
  }
  const lines = [...rest].map(([name, messages]) => `${name}: ${messages.join(" ")}`);
  return [message, hint, ...lines].filter(Boolean).join("\n");
}

function javascript(call, path, data) {
  const json = JSON.stringify(data, (name, each) => (each instanceof File ? "\0" : each), 1) ?? "{}";
  const line = json.replace(/(,?)\n */g, (_, comma) => comma && ", ").replaceAll('"\\u0000"', "input.files[0]");
  const literal = line.replace(/(?<=\{|, )"([a-z_$][\w$]*)":/gi, "$1:");
  const method = call.name.endsWith("/list") ? "ajax.reply" : "ajax";
  return `await ${method}(${JSON.stringify(path)}${literal === "{}" ? "" : `, ${literal}`});`;
}

function curl(call, path, data = {}) {
  const {session, csrf, csrfCookie} = api.components.securitySchemes;
  const token = csrfCookie ? "0".repeat(32) : $("[name=csrfmiddlewaretoken]").value;
  const cookies = [csrfCookie && `${csrfCookie.name}=${token}`, call.security[0].session && `${session.name}=$SESSION`];
  const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;
  const part = (name, each) => each instanceof File ? `-F ${quoted(`${name}=@${each.name}`)}`
    : `--form-string ${quoted(`${name}=${Object(each) === each ? JSON.stringify(each) : each ?? ""}`)}`;
  const parts = Object.entries(data ?? {}).flatMap(([name, value]) => [value].flat().map(each => part(name, each)));
  return [
    `curl ${new URL(path.split("/").map(encodeURIComponent).join("/"), import.meta.url)}.json`,
    ...parts.some(each => each.startsWith("-F")) ? parts : [`--json ${quoted(JSON.stringify(data))}`],
    `-H '${csrf.name}: ${token}'`, `-b "${cookies.filter(Boolean).join("; ")}"`, `-e ${location.origin}/`,
  ].join(" \\\n  ");
}

/** Make a box of code with a button that copies it. */
function sample(title, note) {
  const code = make("pre", {}), said = make("small", {role: "status"});
  const button = make("button", {type: "button", "aria-label": `Copy ${title}`}, "Copy");
  const copy = () => navigator.clipboard.writeText(code.textContent);
  button.addEventListener("click", () => copy().then(() => said.replaceChildren("Copied")));
  const head = make("div", {class: "head"}, make("h3", {}, title), said, button);
  return {code, box: make("div", {}, head, code, note && make("small", {}, note))};
}

function view(call, given) {
  const {schema} = Object.values(call.requestBody?.content ?? {})[0] ?? {};
  const fields = Object.entries(schema?.properties ?? {}).map(([name, each]) =>
    field(call, name, each, schema.required.includes(name)));
  if (schema && !schema.properties) fields.push({...field(call, "body", schema), isBody: true});
  const pk = call.pk && field(call, "pk", call.pk, true);
  if (pk) Object.assign(pk.box, {required: true, value: given || pks[call.group] || ""});
  const hint = fields.length && 'An empty box is not sent; "" sends an empty text, null sends null.';
  const form = make("form", {}, pk?.row, ...fields.map(each => each.row),
    hint && make("small", {}, hint), make("button", {type: "submit"}, "Call"));
  const js = sample("JavaScript"), shell = sample("curl", call.security[0].session &&
    "SESSION is the cookie of your session, which scripts cannot read: see the browser’s tools.");
  const status = make("div", {role: "status"});
  const reply = make("pre", {class: "reply", tabindex: 0, role: "region", "aria-label": "Reply"});
  const path = () => call.name.replace("{pk}", () => pk.box.value || "{pk}");
  const show = () => {
    pks[call.group] = pk?.box.value ?? pks[call.group];
    const data = collect(fields);
    js.code.textContent = javascript(call, path(), data);
    shell.code.textContent = curl(call, path(), data);
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", async event => {
    event.preventDefault();
    if (call.asks && !confirm(`${call.asks}\n${path()}`)) return;
    status.replaceChildren("Calling …");
    const {line, text, error} = await answer(path(), collect(fields));
    status.replaceChildren(make("strong", {}, line), make("span", {class: "bad"}, complain(error, fields)));
    if (error.loginUrl) status.append(make("a", {href: error.loginUrl}, "Log in"));
    reply.textContent = text;
  });
  show();
  return make("article", {}, make("header", {}, make("h2", {tabindex: -1}, call.name),
    make("p", {}, `${call.summary} ${call.description}`), make("p", {}, call.who)),
    form, make("section", {}, status, reply, js.box, shell.box));
}

/** Make a call; give its status in a line, what came as text, and its error. */
async function answer(path, data) {
  const started = performance.now();
  try {
    const response = await ajax.fetch(path, data), blob = await response.blob();
    const time = Math.round(performance.now() - started), size = blob.size.toLocaleString("en");
    const line = `${response.status} ${response.statusText}, ${time} ms, ${size} bytes`;
    const text = /^text|json/.test(blob.type) ? await blob.text() : blob.type;
    if (!blob.type.includes("json")) return {line, text, error: {}};
    const reply = JSON.parse(text), shown = {line, text: JSON.stringify(reply, null, 2), error: {}};
    return reply?.success !== false ? shown : {...shown, error: new AJAXError(reply.data.message, {response, reply})};
  } catch (error) { return {line: "No answer", text: "", error}; }
}

const intro = $("#intro"), pks = {}; // the last pk of each model

/** List the calls that the filter lets through; give them. */
function list() {
  const text = $("#filter").value, {call: found} = find(text), {call: current} = find(location.hash.slice(1));
  const has = call => `${call.name} ${call.summary}`.toLowerCase().includes(text.toLowerCase().trim());
  const shown = calls.filter(call => (found ? call === found : has(call)));
  const link = ({name, prefix}) => make("li", {},
    make("a", {href: `#${name}`, "aria-current": name === current?.name && "page"}, name.slice(prefix.length)));
  $("#calls").replaceChildren(...Object.values(Object.groupBy(shown, call => call.prefix)).flatMap(some => {
    const [{group, prefix}] = some, rest = prefix.slice(group.length + 1);
    const isFirst = shown.find(call => call.group === group) === some[0];
    return [...isFirst ? [make("h2", {}, group)] : [], make("ul", {"aria-label": prefix},
      rest && make("li", {}, make("code", {}, rest)), ...some.map(link))];
  }));
  return shown;
}

/** Show the call that the address names. */
function open() {
  const {call, pk} = find(location.hash.slice(1));
  $("main").replaceChildren(call ? view(call, pk) : intro);
  document.title = call ? `${call.name} – ajax.py` : "ajax.py";
  list();
  $("[aria-current]")?.scrollIntoView({block: "nearest"});
}

$("#you").textContent = own(api).you ?? "";
$("#about").textContent = api.info?.description ?? api.data?.message ?? "";
$("#filter").addEventListener("input", event => {
  $("#found").textContent = `${list().length} of ${calls.length} calls`;
  if (event.inputType === "insertFromPaste" && find(event.target.value).call) $("#find").requestSubmit();
});
$("#find").addEventListener("submit", event => {
  event.preventDefault();
  const {call = list()[0], pk} = find($("#filter").value);
  if (call) location.hash = call.name.replace("{pk}", () => (pk ? encodeURIComponent(pk) : "{pk}"));
});
addEventListener("hashchange", () => { open(); $("main h2")?.focus(); scrollTo(0, 0); });
open();
"""  # noqa: E501

_STYLE = """:root {
  color-scheme: light dark;
  --back: light-dark(#fff, #131615); --tint: light-dark(#f4f6f5, #1c201e);
  --text: light-dark(#1a1e1c, #e3e7e5); --muted: light-dark(#5a625e, #9ca5a0);
  --line: light-dark(#dde2df, #2d3330); --edge: light-dark(#838c87, #75807a);
  --accent: light-dark(#0a6b4c, #5fcaa2); --bad: light-dark(#b3261e, #ff9c91);
  font: .9375rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
}
* { box-sizing: border-box; margin: 0; padding: 0; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
h1, h3 { font-size: 1em; }
h2 { font-size: 1.25rem; outline: none; }
small { display: block; color: var(--muted); font-size: .8125rem; }
pre, code, h2, .field label { font-family: ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { padding: .75rem; border-radius: 4px; background: var(--tint); font-size: .8125rem; white-space: pre-wrap; }
input, select, textarea, button {
  padding: .375rem .5rem; border: 1px solid var(--edge); border-radius: 4px;
  color: inherit; background: var(--back); font: inherit;
}
input, select, textarea { width: 100%; min-height: 2.375rem; field-sizing: content; max-height: 20rem; }
.bad, [aria-invalid=true] { display: block; color: var(--bad); border-color: var(--bad); white-space: pre-line; }
.bad:empty, pre:empty { display: none; }
#side, main { padding: 1.5rem; }
#side header, nav ul, .field div:first-child, .head { display: flex; flex-wrap: wrap; gap: 0 .75rem; align-items: baseline; }
#find, #intro, article, article form, section { display: grid; gap: 1.25rem 3rem; align-content: start; max-width: 42rem; }
#find { gap: .25rem; margin: 1.25rem 0; }
nav h2 { margin-top: 1.25rem; font-size: .875rem; }
nav ul { list-style: none; line-height: 1.75rem; }
a { display: inline-block; min-width: 1.5rem; color: var(--accent); }
nav a { text-decoration: none; }
nav [aria-current] { color: inherit; font-weight: 600; box-shadow: inset 0 -2px var(--accent); }
.field { display: grid; gap: .25rem 1.5rem; }
.field label { font-size: .875rem; font-weight: 600; }
[type=submit] { width: 8rem; border-color: var(--accent); color: var(--back); background: var(--accent); }
.reply { max-height: 60vh; overflow: auto; }
.head button { padding: .125rem .5rem; margin: 0 0 .25rem auto; font-size: .8125rem; }
@media (width < 52rem) {
  body:has(article) nav, body:not(:has(article)) #side a[href="#"] { display: none; }
}
@media (width >= 52rem) {
  body { display: grid; grid-template-columns: 20rem minmax(0, 1fr); }
  #side { position: sticky; top: 0; height: 100vh; overflow: auto; border-right: 1px solid var(--line); }
  #side a[href="#"] { display: none; }
  .field { grid-template-columns: 10rem minmax(0, 1fr); }
  .field div:first-child { display: block; }
}
@media (width >= 80rem) {
  article { grid-template: auto 1fr / minmax(0, 36rem) minmax(0, 1fr); max-width: 90rem; }
  section { grid-area: 1 / 2 / 3; max-width: none; }
}
"""  # noqa: E501

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>ajax.py</title>
<link rel="stylesheet" href="explorer.css">
<script type="module" src="explorer.js"></script>
<input type="hidden" name="csrfmiddlewaretoken" value="CSRF_TOKEN">
<div id="side">
  <header><h1>ajax.py</h1> <small id="you"></small> <a href="#">All calls</a></header>
  <nav aria-label="Calls">
    <form id="find" role="search"><label for="filter">Find a call</label>
      <input id="filter" type="search" autocomplete="off" aria-describedby="found">
      <small id="found" role="status">By a word, or paste a path.</small></form>
    <div id="calls"></div></nav></div>
<main><div id="intro"><p>Choose a call to see what it takes, and try it.</p><pre id="about"></pre></div></main>
"""  # noqa: E501

#: Served as they are, but for the names of the site's cookie and header, and a token.
_TEXTS = {
    "": ("text/html", _PAGE), "explorer.css": ("text/css", _STYLE),
    "explorer.js": ("text/javascript", _EXPLORER),
    "client.js": ("text/javascript", _CLIENT),
}  # fmt: skip


if __name__ == "__main__":
    # By its real name: as __main__ it would be a second copy, with its own registries.
    sys.exit(
        importlib.import_module(__spec__.name if __spec__ else "ajax")._serve_demo()
    )
