"""Let the JavaScript of a Django site's own pages call its functions and models.

    # blog/endpoints.py
    import ajax
    from .models import Post

    @ajax.register(Post)
    class PostEndpoint(ajax.ModelEndpoint):
        readonly_fields = ["author"]

        def prepare_record(self, request, record, created):
            if created:
                record.author = request.user

    # urls.py
    path("ajax/", include("ajax"))

    // a page
    import ajax from "/ajax/client.js";
    const post = await ajax("blog/post/create", {title: "Hello"});

Every call is a POST to a path below the mount:

    {app}/{name}.json                      call a function of the app's endpoints.py,
                                           or a form, or create a record of a model
    {app}/{model}/{operation}.json         list, create, or a custom operation
    {app}/{model}/{pk}/{operation}.json    get, update, delete, or a custom operation
    {app}/{model}/{pk}/{tags}/{command}.json   add, remove, set, clear, similar

The function `dispatch` answers a request. It resolves the path, checks the CSRF token,
lets the endpoint authorize the user, reads the body, runs the endpoint, and makes a
response of the result. `_error_response` makes a JSON error of whatever is raised.

The file uses a few words in one sense only:

    sent             what a client sends: the value for one key, or all of them by key
    model endpoint   an instance of a model's endpoint class, made for one request
    plan             the keys that one model has at one place of a reply, and the query
                     for them; plans are kept until something is registered
    part             one key of a plan: it shows, describes and reads the key
    batch            records of one model that are encoded together
    draft            a write in progress: the record, what was sent, and the errors
    closed           said of a model without an endpoint that shares its table with a
                     registered model: only pks are shown
    narrowed         said of a model of which a manager or get_queryset() leaves records
                     out; can_get() is asked separately

The file begins with single values and ends with requests. To follow a request, start at
`dispatch`.
"""

import collections
import contextlib
import contextvars
import copy
import datetime
import decimal
import difflib
import enum
import errno
import functools
import importlib.util
import inspect
import itertools
import json
import logging
import math
import pathlib
import re
import sys
import threading
import traceback
import types
import typing
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlencode

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django import forms
from django.apps import AppConfig, apps
from django.conf import settings
from django.contrib.auth import get_permission_codename
from django.contrib.auth.decorators import login_not_required
from django.core import checks
from django.core import exceptions as core_exceptions
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import UploadedFile
from django.core.signals import got_request_exception
from django.core.validators import (
    DecimalValidator,
    MaxLengthValidator,
    MaxValueValidator,
    MinValueValidator,
    RegexValidator,
)
from django.db import connections, models, router, transaction
from django.db.models import Count, F, OuterRef, Q, Subquery
from django.db.models.expressions import RawSQL
from django.db.models.fields.files import FieldFile
from django.db.models.functions import Cast
from django.db.utils import DatabaseError, DataError, IntegrityError, InterfaceError
from django.dispatch import Signal
from django.forms.utils import from_current_timezone
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware, get_token
from django.middleware.http import ConditionalGetMiddleware
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, include, path, re_path
from django.utils import timezone
from django.utils.autoreload import autoreload_started
from django.utils.cache import set_response_etag
from django.utils.choices import flatten_choices
from django.utils.datastructures import MultiValueDict
from django.utils.dateparse import parse_datetime
from django.utils.duration import duration_iso_string
from django.utils.formats import localize_input
from django.utils.functional import Promise, cached_property
from django.utils.html import escape, format_html
from django.utils.log import log_response
from django.utils.module_loading import import_string, module_has_submodule
from django.utils.text import smart_split
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView
from django.views.static import serve

__version__ = "1.2.0"

__all__ = [
    "AJAXError",
    "AjaxConfig",
    "AlreadyRegistered",
    "BaseAuthentication",
    "BaseEndpoint",
    "DefaultEncoder",
    "EnvelopedResponse",
    "ExcludeEncoder",
    "FormEndpoint",
    "HTMLEscapeEncoder",
    "IncludeEncoder",
    "ModelEndpoint",
    "NotRegistered",
    "ajax_created",
    "ajax_deleted",
    "ajax_updated",
    "app_name",
    "encoder",
    "endpoint",
    "json_response",
    "login_required",
    "register",
    "urlpatterns",
    "validated",
]

app_name = "ajax"


# --- Limits ---------------------------------------------------------------------------

_MAX_JSON_DEPTH = 64
_MAX_TAGS = 100
#: Values of one many-to-many relation or list, and keys of a body that are looked at,
#: one by one, for a message.
_MAX_MEMBERS = 1000
_MAX_FILTER_VALUES = 100
#: Characters of one value of a filter.
_MAX_FILTER_LENGTH = 1000
_MAX_SEARCH_WORDS = 10
_MAX_SORT_KEYS = 10
#: Levels of foreign keys shown as whole records.
_MAX_LEVELS = 5
#: Places in one record where related records are shown whole.
_MAX_EXPANSIONS = 100
#: Keys for which a reply explains what is wrong.
_MAX_EXPLAINED_KEYS = 20
#: Tables that the queries of one reply join. Further relations get a query each. SQLite
#: joins at most 64 in one query.
_MAX_JOINS = 40
#: JavaScript's Number.MAX_SAFE_INTEGER: JavaScript rounds larger integers.
_MAX_SAFE_INTEGER = 2**53 - 1


# --- Errors ---------------------------------------------------------------------------


class AlreadyRegistered(Exception):
    """The model or form, or its path, is registered already."""


class NotRegistered(Exception):
    """The model or form is not registered."""


class AJAXError(Exception):
    """An error reply: raise it or return it.

    `code` is the HTTP status, an integer from 400 to 599. `message` is a text for the
    user. Other keyword arguments are added to the top level of the reply. Among them,
    `errors` may have any shape: the reply has it as lists of texts by name. A wrong
    code or message raises TypeError or ValueError.
    """

    def __init__(self, code, message, **extra):
        if isinstance(code, bool) or not isinstance(code, int):
            raise TypeError(f"The code of an AJAXError is an integer, not {code!r}.")
        if not 400 <= code <= 599:
            raise ValueError(
                f"The code of an AJAXError is from 400 to 599, not {code}."
            )
        if not isinstance(message, str | Promise):
            kind = type(message).__name__
            raise TypeError(f"The message of an AJAXError is a text, not a {kind}.")
        super().__init__(code, message)
        self.code = int(code)
        self.msg = message
        self.extra = extra

    def __str__(self):
        return str(self.msg)

    def get_response(self, request=None):
        """Return the error as a JSON HttpResponse. Records in it are shown as the
        request's user may see them."""
        reply = {
            "success": False,
            "data": {"code": self.code, "message": str(self.msg)},
        }
        extra = dict(self.extra)
        if "errors" in extra:
            extra["errors"] = _texts_by_name(extra["errors"])
        reply.update(_beside_data(extra, request))
        response = _json_response(_dump(reply), self.code)
        if self.code == 405:
            response["Allow"] = "POST"
        return response


#: The messages of exceptions whose text is empty or must not be shown.
_MESSAGES = {
    400: gettext_lazy("This cannot be processed. Please check what you entered."),
    403: gettext_lazy("You may not do this."),
    404: gettext_lazy("Not found."),
    409: gettext_lazy(
        "The record conflicts with another one, is in use, or is gone. Please reload "
        "the page."
    ),
    413: gettext_lazy("The request is too large. Please send less."),
    503: gettext_lazy("The database is busy. Please try again."),
}

#: How other exceptions are answered: their classes, the status, and whether clients
#: may see their text. If not, it is a hint for the site's developer.
_STATUSES = (
    (core_exceptions.RequestDataTooBig, 413, True),
    (core_exceptions.TooManyFieldsSent, 413, True),
    (core_exceptions.TooManyFilesSent, 413, True),
    (core_exceptions.SuspiciousFileOperation, 400, False),  # Its text is a path.
    (core_exceptions.SuspiciousOperation, 400, True),
    (core_exceptions.BadRequest, 400, True),
    (MultiPartParserError, 400, True),
    (UnreadablePostError, 400, True),
    (Http404, 404, True),
    (core_exceptions.PermissionDenied, 403, True),
    (IntegrityError, 409, False),  # A protected or restricted delete, too.
    (DataError, 400, False),
    # SQLite's driver raises OverflowError for a number beyond its columns.
    (OverflowError, 400, False),
    # Django 6.0 raises it; 5.2 raises a bare DatabaseError: see _as_database_error().
    (getattr(core_exceptions, "ObjectNotUpdated", ()), 409, False),
)

#: The status for an error of a database, by its code: the SQLSTATE of PostgreSQL, the
#: number of MySQL and MariaDB, or the result code of SQLite. The texts may be in any
#: language.
_DATABASE_CODES = {
    "40001": 503,  # The transaction cannot be serialized.
    "40P01": 503,  # A deadlock.
    "55P03": 503,  # Somebody else holds a lock.
    "57014": 503,  # The statement took too long.
    "54000": 400,  # A value is too long for an index.
    1020: 503,  # The record has changed since the transaction began.
    1205: 503,  # Somebody else holds a lock.
    1213: 503,  # A deadlock.
    1317: 503,  # The statement was interrupted.
    1969: 503,  # The statement took too long (MariaDB).
    3024: 503,  # The statement took too long (MySQL).
    3572: 503,  # Somebody else holds a lock, and NOWAIT was asked for (MySQL).
    1267: 400,  # A collation cannot compare a text.
    1292: 400,  # A text is no UUID.
    1366: 400,  # A character set does not have a character.
    5: 503,  # Another connection has locked the database.
    6: 503,  # Another connection to the same cache has locked a table.
}


def _as_ajax_error(error):
    """Return the AJAXError for an exception, None if it is to be a 500."""
    if isinstance(error, AJAXError):
        return error
    if isinstance(error, ValidationError):
        message = " ".join(error.messages)
        return AJAXError(400, message, errors=_errors_by_field(error))
    for kinds, code, is_public in _STATUSES:
        if isinstance(error, kinds):
            text = _own_text(error)
            # Django names the limit that was exceeded, for the site's developer.
            names_setting = code == 413 and "settings." in text
            if is_public and text and not names_setting:
                return AJAXError(code, text)
            return AJAXError(code, _MESSAGES[code], **_hint(text))
    return _as_database_error(error)


def _own_text(error):
    """Return the text that an exception was raised with, "" if it is no text.

    A Resolver404 has a dict with the URLconf, which clients must not see.
    """
    if not error.args or not isinstance(error.args[0], str | Promise):
        return ""
    # A ProtectedError has the records as its second argument.
    return str(error) if len(error.args) == 1 else str(error.args[0])


def _as_database_error(error):
    """Return the AJAXError for an error that only the database's code explains."""
    if not isinstance(error, DatabaseError):
        return None
    status = _DATABASE_CODES.get(_find_database_code(error))
    if status is None and type(error) is DatabaseError and error.__cause__ is None:
        # Django 5.2 raises it where later versions raise ObjectNotUpdated.
        status = 409
    if status is None:
        return None
    return AJAXError(status, _MESSAGES[status])


def _find_database_code(error):
    """Return the code that a database gave an error, None if it gave none."""
    cause = error.__cause__
    if hasattr(cause, "sqlite_errorcode"):
        return cause.sqlite_errorcode & 0xFF  # Without the details of extended codes.
    for name in ("sqlstate", "pgcode"):  # Of psycopg and of psycopg2.
        if getattr(cause, name, None):
            return getattr(cause, name)
    number = error.args[0] if error.args else None
    if isinstance(number, int):
        return number
    # On Python 3.10, errors of SQLite have only a text, which is always in English.
    return 5 if "is locked" in str(error) else None


def _error_response(request, error):
    """Return the JSON response for any exception."""
    response = None
    try:
        ajax_error = _as_ajax_error(error)
        if ajax_error is not None:
            response = _call_hook(ajax_error.get_response, request)
    except Exception as unexpected:
        return _report(request, unexpected)
    if response is None:
        return _report(request, error)
    if isinstance(error, (DatabaseError, OverflowError)):
        # The text may hold what the client sent. Django escapes what is an argument.
        log_response(
            "%s: %s: %s",
            response.reason_phrase,
            request.path,
            str(error),
            response=response,
            request=request,
            exception=error,
        )
    return response


def _report(request, error):
    """Return the response for an unexpected exception; signal and log it once, as
    Django does."""
    # A receiver that fails must not replace the reply.
    got_request_exception.send_robust(sender=None, request=request)
    response = _describe_exception(error).get_response()
    log_response(
        "%s: %s",
        response.reason_phrase,
        request.path,
        response=response,
        request=request,
        exception=error,
    )
    return response


def _describe_exception(error):
    """Return an AJAXError 500, in DEBUG with the exception's message and traceback."""
    if not settings.DEBUG:
        return AJAXError(500, _("Internal server error."))
    # Not str(): that may be what failed.
    message = "".join(traceback.format_exception_only(error)).strip()
    frames = []
    for frame in traceback.extract_tb(error.__traceback__):
        frames.append(
            {
                "file": frame.filename,
                "line": frame.lineno,
                "in": frame.name,
                "code": frame.line,
            }
        )
    return AJAXError(500, message, traceback=frames)


def _errors_by_field(error):
    """Return the messages of a ValidationError by field, also of one without fields."""
    return ValidationError(error.update_error_dict({})).message_dict


def _texts_by_name(errors):
    """Return errors of any shape as lists of texts by name."""
    if isinstance(errors, ValidationError):
        errors = _errors_by_field(errors)
    if not isinstance(errors, Mapping):
        errors = {core_exceptions.NON_FIELD_ERRORS: errors}
    return {str(name): _flatten_texts(value) for name, value in errors.items()}


def _flatten_texts(errors):
    """Return all texts in errors of any shape, as "name: text" if they have a name."""
    if errors is None:
        return []
    if isinstance(errors, ValidationError):
        return errors.messages
    is_text = isinstance(errors, str | Promise)
    if is_text or not isinstance(errors, Iterable):
        return [str(errors)]
    texts = []
    if isinstance(errors, Mapping):
        for name, value in errors.items():
            texts += [f"{name}: {text}" for text in _flatten_texts(value)]
    else:
        for value in errors:
            texts += _flatten_texts(value)
    return texts


def _invalid(errors, **extra):
    """Return the AJAXError for errors by field."""
    return AJAXError(400, _("Please correct the errors."), errors=errors, **extra)


def _hint(text):
    """Return a hint for the site's developer as keywords of an AJAXError, if DEBUG and
    if there is a text."""
    if text and settings.DEBUG:
        return {"hint": text}
    return {}


def _find_close(name, known_names, likeness=0.6):
    """Return the known name that is most like `name`, None if none is like it."""
    # The time that difflib takes is quadratic in the length.
    matches = difflib.get_close_matches(name[:100], known_names, 1, likeness)
    return matches[0] if matches else None


# --- Signals --------------------------------------------------------------------------

#: Sent after the endpoint's last write, before the commit, with `instance` and
#: `request`.
#: `ajax_deleted` also has `payload`: the data of the reply.
ajax_created = Signal()
ajax_updated = Signal()
ajax_deleted = Signal()


# --- Values as JSON -------------------------------------------------------------------


class EnvelopedResponse:
    """A result with more than its data: the dict `metadata` is added beside `data` at
    the top level of the reply."""

    def __init__(self, data, metadata):
        if not isinstance(metadata, Mapping):
            kind = type(metadata).__name__
            message = f"The metadata of an EnvelopedResponse is a dict, not a {kind}."
            raise TypeError(message)
        self.data = data
        self.metadata = metadata


class _Page(EnvelopedResponse):
    """A page of records as JSON texts, which are parsed only if somebody asks for
    `data`."""

    def __init__(self, texts, metadata):
        self.texts = texts
        self.metadata = metadata

    @cached_property
    def data(self):
        return [_load(text) for text in self.texts]


def _plain_integer(value):
    if -_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER:
        return int(value)
    return str(int(value))


def _plain_float(value):
    return float(value) if math.isfinite(value) else None


def _plain_decimal(value):
    return str(value) if value.is_finite() else None


def _plain_date(value):
    return value.isoformat()


def _plain_datetime(value):
    return value.isoformat().replace("+00:00", "Z")


def _plain_bytes(value):
    return b64encode(value).decode()


def _plain_enum(value):
    return _to_plain(value.value)


def _plain_file(file):
    return file.name


def _file_url(file):
    """Return a FieldFile's URL, None if it is empty or its storage has no URLs."""
    if not file:
        return None
    try:
        return file.url
    except NotImplementedError:
        return None


class _JSONInteger(int):
    """An integer that stays a number in JSON at any size, as in a JSONField."""


#: The plain data of a JSON text that was made here.
_load = json.JSONDecoder(parse_int=_JSONInteger).decode


#: How values become JSON, by class; a subclass follows its nearest base listed here.
_CONVERSIONS = {
    type(None): lambda value: None,
    bool: bool,
    str: str.__str__,
    int: _plain_integer,
    _JSONInteger: _JSONInteger,
    float: _plain_float,
    enum.Enum: _plain_enum,
    datetime.datetime: _plain_datetime,
    datetime.date: _plain_date,
    datetime.time: _plain_date,
    datetime.timedelta: duration_iso_string,
    decimal.Decimal: _plain_decimal,
    uuid.UUID: str,
    Promise: str,
    bytes: _plain_bytes,
    bytearray: _plain_bytes,
    memoryview: _plain_bytes,
    FieldFile: _file_url,
    File: _plain_file,
}

#: The classes whose values need no conversion. `int` is not one: a large integer
#: becomes text.
_PLAIN_CLASSES = {str, bool, type(None)}


def _to_plain(value, encode=None):
    """Convert what an endpoint returned to plain dicts, lists and scalars.

    `encode` turns a list of records into a list of plain values. By default, these are
    dicts as they are shown without a user.
    Raise TypeError for a value that JSON cannot hold.
    """
    value_class = type(value)
    if value_class in _PLAIN_CLASSES:
        return value
    if value_class is dict:
        return _plain_dict(value, encode)
    if value_class is list:
        return _plain_list(value, encode)
    for base in value_class.__mro__:
        if base in _CONVERSIONS:
            return _CONVERSIONS[base](value)
    if isinstance(value, models.Model):
        encode = encode or _encode_records
        return encode([value])[0]
    if isinstance(value, Mapping):
        return _plain_dict(value, encode)
    if isinstance(value, Iterable):
        return _plain_list(list(value), encode)
    raise TypeError(f"{value_class.__name__} cannot be encoded as JSON.")


def _plain_dict(mapping, encode):
    plain = {}
    for key, value in mapping.items():
        if type(key) is not str:
            key = _to_plain(key)
        plain[key] = _to_plain(value, encode)
    return plain


def _plain_list(items, encode):
    """Return items as plain data; all records among them are encoded in one go."""
    records = [item for item in items if isinstance(item, models.Model)]
    if not records:
        return [_to_plain(item, encode) for item in items]
    encode = encode or _encode_records
    encoded_records = iter(encode(records))
    plain = []
    for item in items:
        if isinstance(item, models.Model):
            plain.append(next(encoded_records))
        else:
            plain.append(_to_plain(item, encode))
    return plain


def _escape_texts(value):
    """Return plain data with every text in it, keys too, escaped for HTML."""
    if isinstance(value, str):
        return str(escape(value))
    if isinstance(value, dict):
        return {_escape_texts(key): _escape_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape_texts(item) for item in value]
    return value


#: Plain data as JSON text. It is ASCII: a lone surrogate has no UTF-8.
_dump = json.JSONEncoder(
    separators=(",", ":"), allow_nan=False, default=_to_plain
).encode
#: The same with NUL between items. JSON text never holds NUL, so one call can encode
#: many values, to be split at each NUL.
_dump_apart = json.JSONEncoder(
    separators=("\0", ":"), allow_nan=False, default=_to_plain
).encode


def _dump_each(values):
    """Return the JSON text of each of some plain values."""
    texts = _dump_apart(values)[1:-1].split("\0")
    if len(texts) != len(values):
        # Some values are lists or dicts, which hold NUL as well.
        texts = [_dump(value) for value in values]
    return texts


def _dump_json_values(values):
    """Return the JSON text of each of some values of a JSONField."""
    try:
        return _dump_each(values)
    except ValueError:
        # A database may hold NaN, or numbers that are infinite in Python.
        return _dump_each([_without_infinities(value) for value in values])


def _without_infinities(value):
    """Return a value of a JSONField with None in place of NaN and infinities."""
    if isinstance(value, float):
        return _plain_float(value)
    if isinstance(value, dict):
        return {key: _without_infinities(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_infinities(item) for item in value]
    return value


def _dump_column(values, field=None):
    """Return the JSON text of each value of a column. `field` is the column's field."""
    if len(values) == 1:  # A single value is quicker by itself.
        return [_dump(_plain_column_value(values[0], field))]
    classes = set(map(type, values))
    if not classes <= _PLAIN_CLASSES:
        plain_value = partial(_plain_column_value, field=field)
        conversions = {}
        for value_class in classes:
            conversions[value_class] = _CONVERSIONS.get(value_class, plain_value)
        values = [conversions[type(value)](value) for value in values]
    return _dump_each(values)


def _plain_column_value(value, field=None):
    """Return a value of a column as plain data.

    Some fields have a class of their own for their values, for phone numbers for
    instance. Clients get such a value as text. The field's own value_to_string() makes
    the text, which the field can read back. Without one, str() does.
    """
    for base in type(value).__mro__:
        if base in _CONVERSIONS:
            return _CONVERSIONS[base](value)
    if _makes_text(field):
        # The method wants an instance, of which it looks at the field's attribute only.
        holder = types.SimpleNamespace(**{field.attname: value})
        return _plain_column_value(field.value_to_string(holder))
    if type(value) is list:
        return [_plain_column_value(item) for item in value]
    if type(value) is dict:
        return {str(key): _plain_column_value(item) for key, item in value.items()}
    return str(value)


def _makes_text(field):
    """Return whether a field has a value_to_string() that is not Django's."""
    if field is None:
        return False
    return not field.value_to_string.__module__.startswith("django.")


def _plain_pk(record):
    return _plain_column_value(record.pk, record._meta.pk)


def _json_response(text, status=200):
    return HttpResponse(text, content_type="application/json", status=status)


def _beside_data(extra, request):
    """Return plain data for the top level of a reply, as the request's user may see it.

    It cannot replace the reply's own keys. In DEBUG it says which models are shown only
    as pks, and why.
    """
    plain = _to_plain(extra, partial(_encode_records, request=request))
    plain.pop("success", None)
    plain.pop("data", None)
    if settings.DEBUG and request is not None:
        return {**_get_access(request).get_hint(), **plain}
    return plain


def _success_response(result, request):
    """Return an endpoint's result as an HttpResponse; raise a returned AJAXError."""
    if isinstance(result, HttpResponseBase):
        return result
    if isinstance(result, AJAXError):
        raise result
    text = _dump_result(result, request)
    metadata = result.metadata if isinstance(result, EnvelopedResponse) else {}
    metadata = _beside_data(metadata, request)
    after = "}"
    if metadata:
        after = "," + _dump(metadata)[1:]
    return _json_response(f'{{"success":true,"data":{text}{after}')


def _dump_result(result, request):
    """Return the JSON text of a result's data, as the request's user may see it."""
    if isinstance(result, _Page) and "data" not in vars(result):
        return f"[{','.join(result.texts)}]"
    if isinstance(result, EnvelopedResponse):
        result = result.data
    encode = partial(_encode_records, request=request)
    return _dump(_to_plain(result, encode))


# --- Models and their fields ----------------------------------------------------------

# Two words about keys. Where a primary key is a foreign key (a parent link, or another
# OneToOneField), the field at the end of that chain is the *root key*: it says how a pk
# is read. A primary key that is no relation, and a parent link, are *own keys*: they
# are shown only as "pk".

_TEXT_FIELDS = (models.CharField, models.TextField)


def _is_user_model(model):
    # Imported on use: while apps load, not even an abstract model can be made.
    from django.contrib.auth.base_user import AbstractBaseUser

    return issubclass(model, AbstractBaseUser)


def _is_of_auth(model):
    """Return whether a model is one of django.contrib.auth, as Group is."""
    return model.__module__.startswith("django.contrib.auth.")


def _is_shown_only(field):
    """Return whether a field is a range, hstore or search vector of PostgreSQL's: such
    fields are shown, but cannot be written."""
    if hasattr(field, "range_type"):
        return True
    # By name: django.contrib.postgres cannot be imported without its driver.
    names = {base.__name__ for base in type(field).__mro__}
    return not names.isdisjoint({"HStoreField", "SearchVectorField"})


def _is_tags_manager(field):
    is_plural = getattr(field, "many_to_many", False)
    if not is_plural or not apps.is_installed("taggit"):
        return False
    from taggit.managers import TaggableManager

    return isinstance(field, TaggableManager)


def _is_parent_link(field):
    return field.is_relation and field.remote_field.parent_link


def _is_own_key(field):
    if field.is_relation:
        return field.remote_field.parent_link
    return field.primary_key


def _root_key(model):
    field = model._meta.pk
    while field.is_relation:
        field = field.target_field
    return field


def _find_children(model):
    """Return the models that inherit a model's table, and the children of those."""
    children = []
    for relation in model._meta.concrete_model._meta.get_fields(include_hidden=True):
        if getattr(relation, "parent_link", False):
            child = relation.related_model
            children += [child, *_find_children(child)]
    return children


def _model_fields(model):
    """Return by name, in order, the fields that a model has to show besides its pk."""
    fields = {}
    for field in model._meta.concrete_fields:
        if not _is_own_key(field):
            fields[field.name] = field
    for field in model._meta.many_to_many:
        fields[field.name] = field
    return fields


def _pk_names(model):
    names = {"pk"}
    for field in model._meta.concrete_fields:
        if _is_own_key(field):
            names.add(field.name)
    return names


def _find_visible_names(model, endpoint_class):
    """Return, in order, the names that an endpoint class lets clients see."""
    if endpoint.is_closed(model) and not encoder.find(model):
        return []
    model_fields = _model_fields(model)
    chosen = endpoint_class.fields
    if chosen is None or chosen == "__all__":
        names = [name for name in model_fields if name != "password"]
        names.extend(endpoint_class.annotations)
    else:
        names = [name for name in model_fields if name in chosen]
        pk_names = _pk_names(model)
        for name in chosen:
            if name not in model_fields and name not in pk_names:
                names.append(name)
    return [name for name in names if name not in endpoint_class.exclude]


def _select_shown(model, endpoint_class, model_encoder):
    """Return, in order, the names that a reply shows. Only these can be written."""
    names = _find_visible_names(model, endpoint_class)
    lists_names = isinstance(model_encoder, (IncludeEncoder, ExcludeEncoder))
    if _is_user_model(model) and endpoint_class.fields is None and not lists_names:
        names = [name for name in names if name == _public_name_field(model)]
    if model_encoder is not None:
        names = model_encoder._select(names)
    return names


def _public_name_field(user_model):
    """Return the name of the field that names a user to others. It is None if that is
    an e-mail address, which is private."""
    name = user_model.USERNAME_FIELD
    field = user_model._meta.get_field(name)
    return None if isinstance(field, models.EmailField) else name


def _read_expand(expand):
    """Return an `expand` attribute as a number of levels, or as a tree of names."""
    if expand is True:
        return _MAX_LEVELS
    if isinstance(expand, int):
        return int(expand)
    tree = {}
    for path_name in expand:
        branch = tree
        for name in path_name.split("__"):
            branch = branch.setdefault(name, {})
    return tree


def _overrides(endpoint_class, hook):
    """Return whether an endpoint class has its own version of a hook."""
    return getattr(endpoint_class, hook) is not getattr(ModelEndpoint, hook)


def _defines(endpoint_class, name):
    """Return whether an endpoint class defines a name that ModelEndpoint lacks."""
    return hasattr(endpoint_class, name) and not hasattr(ModelEndpoint, name)


def _is_narrowed(model, endpoint_class):
    """Return whether the project chooses which records exist, by a manager or by
    get_queryset()."""
    manager_class = type(model._default_manager)
    if manager_class.get_queryset is not models.Manager.get_queryset:
        return True
    if manager_class.all is not models.Manager.all:
        return True
    return _overrides(endpoint_class, "get_queryset")


def _needs_instances(model):
    """Return whether creating an instance runs code of the project's. If so, records
    are not read as rows."""
    if model.__init__ is not models.Model.__init__:
        return True
    if model.from_db.__func__ is not models.Model.from_db.__func__:
        return True
    for signal in (models.signals.pre_init, models.signals.post_init):
        if signal.has_listeners(model):
            return True
    return bool(_find_own_attributes(model))


def _find_own_attributes(model):
    """Return the columns whose attribute is of a class of the project's."""
    columns = []
    for field in model._meta.concrete_fields:
        attribute = inspect.getattr_static(model, field.attname, None)
        if not type(attribute).__module__.startswith("django."):
            columns.append(field)
    return columns


def _is_writable(field, is_named):
    """Return whether clients may write a field; `is_named` says whether `fields` names
    it."""
    if field.many_to_many and not _is_tags_manager(field):
        if not field.remote_field.through._meta.auto_created:
            return False
    if field.generated or _is_shown_only(field):
        return False
    if is_named:
        return True
    return field.editable and not field.primary_key


# --- Reading input --------------------------------------------------------------------

_FORM_TYPE = "application/x-www-form-urlencoded"
_MULTIPART_TYPE = "multipart/form-data"
_JSON_TYPE = "application/json"
_TYPES = (_FORM_TYPE, _MULTIPART_TYPE, _JSON_TYPE)

#: NUL, which PostgreSQL refuses, and lone surrogates, which no database stores.
_BAD_TEXT = re.compile("[\0\ud800-\udfff]")
#: A URL-encoded ASCII body without these bytes needs no further check.
_ODD_BYTES = re.compile(rb"[%\0]")


def _check_storable(value, checks_texts=True):
    """Raise ValueError for a value that is nested too deeply or cannot be stored.

    Values are checked level by level, since Python is slow at checking one by one. If
    `checks_texts` is false, the caller knows that all texts in the value are fine.
    """
    level = [value]
    for _depth in range(_MAX_JSON_DEPTH + 1):
        classes = set(map(type, level))
        if checks_texts and _BAD_TEXT.search("".join(_pick(str, level))):
            message = _("The text has a character that cannot be stored. Remove it.")
            raise ValueError(message)
        if float in classes and not all(map(math.isfinite, _pick(float, level))):
            raise ValueError(_("NaN and infinities are not allowed."))
        if dict not in classes and list not in classes:
            return
        level = _next_level(level, checks_texts)
    raise ValueError(_("The value is nested too deeply."))


def _next_level(level, with_keys):
    """Return the values that lists and dicts hold, and the keys of dicts."""
    containers = _pick(list, level)
    for mapping in _pick(dict, level):
        if mapping:
            containers.append(mapping.values())
            if with_keys:
                containers.append(mapping)  # Iterated, a dict gives its keys.
    return list(itertools.chain.from_iterable(containers))


def _pick(kind, values):
    """Return the values of exactly one class."""
    return [value for value in values if type(value) is kind]


def _check_body(body, checks_texts=True):
    """Raise ValueError for a body that cannot be stored; name the bad key if it is one
    of the first _MAX_MEMBERS."""
    try:
        _check_storable(body, checks_texts)
    except ValueError as error:
        items = {}
        if isinstance(body, dict):
            items = body.items()
        elif isinstance(body, list):
            items = enumerate(body)
        for key, value in itertools.islice(items, _MAX_MEMBERS):
            try:
                _check_storable({key: value}, checks_texts)
            except ValueError:
                message = _("%(error)s Look at the key %(key)s.")
                message %= {"error": error, "key": _dump(key)}
                raise ValueError(message) from None
        raise


_REPEATED_KEY = gettext_lazy('The key "%s" is sent twice.')


def _make_object(pairs):
    """Return the dict for a JSON object; raise ValueError if a key is sent twice."""
    made = dict(pairs)
    if len(made) != len(pairs):
        counts = collections.Counter(key for key, _value in pairs)
        [(repeated, _count)] = counts.most_common(1)
        raise ValueError(_REPEATED_KEY % repeated[:100])
    return made


def _parse_json(text):
    """Return the value of a JSON text; raise ValueError for a bad one."""
    try:
        value = json.loads(text, object_pairs_hook=_make_object)
    except RecursionError:
        raise ValueError(_("The value is nested too deeply.")) from None
    # JSON text holds NUL and lone surrogates only as escapes.
    _check_body(value, checks_texts="\\u" in text)
    return value


def _read_body(request):
    """Set `request.data` to the JSON's value, else to request.POST; raise AJAXError 400
    for a bad body."""
    try:
        if request.content_type == _JSON_TYPE and request.body:
            request.data = _parse_json(request.body.decode())
        else:
            request.data = request.POST
            _check_form(request)
            if request.content_type == _MULTIPART_TYPE and _JSON_TYPE in request.POST:
                request.data = _read_json_part(request)
    except ValueError as error:
        message = _("The body is not a valid form: %s")
        if request.content_type == _JSON_TYPE:
            message = _("The body is not valid JSON: %s")
        raise AJAXError(400, message % error) from None


def _check_form(request):
    """Raise ValueError for a form with texts that are no UTF-8 or cannot be stored.

    In multipart, Django has replaced what is no UTF-8.
    """
    if request.content_type == _FORM_TYPE:
        body = request.body
        if body.isascii() and not _ODD_BYTES.search(body):
            return
        unquote_to_bytes(body).decode()  # Django would replace what is no UTF-8.
    texts = dict(request.POST.lists())
    _check_body(dict.fromkeys(request.FILES) | texts)


def _read_json_part(request):
    """Return the object in the text part application/json, with the files in it.

    Raise ValueError for a bad object, for another text beside it, and for a key that
    is sent twice.
    """
    others = request.POST.keys() - {_JSON_TYPE, "csrfmiddlewaretoken"}
    if others or len(request.POST.getlist(_JSON_TYPE)) > 1:
        raise ValueError(_('Send only files beside the part "application/json".'))
    data = _parse_json(request.POST[_JSON_TYPE])
    if not isinstance(data, dict):
        raise ValueError(_('The part "application/json" has to be a JSON object.'))
    for key, files in request.FILES.lists():
        name = key.removesuffix("[]")
        if name in data or (name == key and len(files) > 1):
            raise ValueError(_REPEATED_KEY % name[:100])
        data[name] = files[0] if name == key else files
    return data


def _check_content_type(request):
    """Raise AJAXError 415 for a body of a type that is not read here."""
    if request.content_type not in _TYPES and request.body:
        message = _("Send the body as JSON or as a form: %s.")
        raise AJAXError(415, message % ", ".join(_TYPES))


class _FormValue(list):
    """The texts and files that a form has for one key."""


class _FormList(list):
    """The texts and files that a form has for a key that ends with []."""


def _read_keys(request):
    """Return by key what was sent: JSON values or _FormValues.

    Raise AJAXError 400 for a body that is no object.
    """
    if isinstance(request.data, MultiValueDict):
        sent = _read_form_keys(request)
    elif isinstance(request.data, dict):
        sent = dict(request.data)
        for key, value in sent.items():
            if isinstance(value, File):
                sent[key] = _FormValue([value])
    else:
        raise AJAXError(400, _("The body has to be a JSON object."))
    sent.pop("csrfmiddlewaretoken", None)
    return sent


def _read_form_keys(request):
    sent = {}
    for data in (request.POST, request.FILES):
        for key, values in data.lists():
            name = key.removesuffix("[]")
            if name not in sent:
                sent[name] = _FormValue() if name == key else _FormList()
            sent[name].extend(values)
    return sent


def _only_value(sent):
    """Return the one value of a form's key; return any other value as it is."""
    if isinstance(sent, _FormValue) and len(sent) == 1:
        return sent[0]
    return sent


def _add_suggestion(message, name, known_names):
    """Return a message about an unknown name, with the name that may be meant."""
    close = _find_close(name, known_names)
    if close is None:
        return message
    params = {"message": message, "name": close}
    return _('%(message)s Did you mean "%(name)s"?') % params


def _explain_unknown(sent, known, writable):
    """Return an error for each unknown key, for _MAX_EXPLAINED_KEYS at most. An error
    may suggest a writable key."""
    errors = {}
    for key in sent:
        if key not in known and len(errors) < _MAX_EXPLAINED_KEYS:
            errors[key] = [_add_suggestion(_("Unknown key."), key, writable)]
    return errors


#: What a field may raise for a value that it cannot read. OSError is among them: a time
#: zone is read from a file.
_UNREADABLE = (ArithmeticError, LookupError, OSError, TypeError, ValueError)


def _form_message(field_class, code="invalid"):
    """Return what Django's forms say of a wrong value of a form field's class."""
    return field_class.default_error_messages[code]


def _too_many_members():
    return ValidationError(_("Send at most %s values.") % _MAX_MEMBERS)


def _too_many_tags():
    return ValidationError(_("Send at most %s tags.") % _MAX_TAGS)


def _required():
    return ValidationError(_form_message(forms.Field, "required"))


def _invalid_value(field=None, value=None):
    """Return the ValidationError for a value that cannot be read.

    Its message is the field's own, if the project gave it one; else it is what Django's
    forms say.
    """
    message = getattr(field, "error_messages", {}).get("invalid")
    if message is None or _is_of_django(field, message):
        message = _find_kind(type(field)).invalid or RegexValidator.message
    return ValidationError(message, params={"value": value})


def _is_of_django(field, message):
    """Return whether a message for a field is Django's, not the project's."""
    for base in type(field).__mro__:
        if base.__module__.startswith("django."):
            if message in vars(base).get("default_error_messages", {}).values():
                return True
    return False


@functools.lru_cache(maxsize=1024)
def _make_form_field(field):
    """Return the form field that Django makes for a field, None if it makes none.

    None is made for a FilePathField, since that reads the folder.
    """
    if isinstance(field, models.FilePathField):
        return None
    if isinstance(field, models.URLField):
        return field.formfield(assume_scheme="https")  # Else Django 5.2 warns.
    return field.formfield()


def _takes_text(field):
    """Return whether a field may hold the empty text."""
    return field.empty_strings_allowed and not isinstance(field, models.BinaryField)


#: Stands for an empty text that means nothing: the field keeps its value or default.
_NOT_SENT = object()


def _interpret(field, sent):
    """Prepare what was sent for a field, as Django's forms do.

    Text is stripped. For a field that takes no text, _interpret_blank() says what an
    empty text means.
    """
    text = _only_value(sent)
    if not isinstance(text, str):
        return sent
    is_form = text is not sent
    if not is_form and isinstance(field, models.JSONField):
        return sent
    if field.is_relation:
        value = text or _interpret_blank(field)
    elif _takes_text(field):
        value = _interpret_text(field, text, is_form)
    else:
        value = text.strip() or _interpret_blank(field)
    if value is text:
        return sent
    if is_form and value is not _NOT_SENT:
        return _FormValue([value])
    return value


def _interpret_text(field, text, is_form):
    """Return a text as the field's form field cleans it: stripped, and with its
    `empty_value` for an empty one."""
    form_field = _make_form_field(field)
    if getattr(form_field, "strip", False):
        text = text.strip()
    if is_form and not text:
        return getattr(form_field, "empty_value", text)
    return text


def _interpret_blank(field):
    """Return what an empty text means for a field that takes no text."""
    if field.null:
        return None
    if isinstance(field, (models.BooleanField, models.BinaryField)):
        return ""
    if field.blank:
        return _NOT_SENT
    raise _required()


def _find_single(field, sent):
    """Return the one value that was sent for a field, None for NULL."""
    if not isinstance(sent, _FormValue):
        return sent
    if len(sent) != 1:
        raise ValidationError(_("This key takes one value."))
    if sent[0] == "null" and not _takes_text(field):
        return None
    return sent[0]


def _read_single(field, sent):
    """Return the one value that was sent for a field, None for a NULL that it takes."""
    value = _find_single(field, sent)
    if value is None and not field.null:
        raise ValidationError(field.error_messages["null"])
    return value


def _read_several(sent):
    """Return the list that was sent; a form may send it as the text of a JSON list."""
    is_form = isinstance(sent, (_FormValue, _FormList))
    if sent == "" or (is_form and sent == [""]):
        return []
    text = _only_value(sent)
    if isinstance(text, str) and text is not sent:
        parsed = _parse_list(text)
        sent = sent if parsed is None else parsed
    if not isinstance(sent, list):
        raise ValidationError(_form_message(forms.MultipleChoiceField, "invalid_list"))
    return sent


def _parse_list(text):
    """Return the list of a JSON text, None for another text.

    Raise ValidationError for JSON that cannot be stored.
    """
    if not text.lstrip().startswith("["):
        return None
    try:
        return _parse_json(text)
    except json.JSONDecodeError:
        return None
    except ValueError as error:
        raise ValidationError(str(error)) from None


def _as_text(value):
    """Return a JSON text or number as text; raise ValueError for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("It is neither a text nor a number.")
    return str(value)


def _as_form_text(value):
    """Return the text with which a form shows a plain value."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _dump(value)


def _equals_shown(shown, sent):
    """Return whether what was sent is a plain value that was shown, in JSON or as the
    text of a form."""
    if not isinstance(sent, _FormValue):
        return _is_same_json(shown, sent)
    text = _only_value(sent)
    if not isinstance(text, str):
        return False
    return _unify_newlines(text) == _unify_newlines(_as_form_text(shown))


def _unify_newlines(text):
    """Return a text with the newlines of Unix: forms send those of Windows."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _is_same_json(one, other):
    """Return whether two JSON values are the same; to Python True equals 1, too."""
    if one != other:
        return False
    # Python is slow at looking at each value.
    return repr(one) == repr(other) or _has_same_booleans(one, other)


def _has_same_booleans(one, other):
    """Return whether two equal values have their booleans at the same places."""
    if isinstance(one, dict):
        return all(_has_same_booleans(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return all(map(_has_same_booleans, one, other))
    return isinstance(one, bool) is isinstance(other, bool)


def _read_as_text(field, value, is_form):
    """Read a JSON text or number as the text that a form would send."""
    value = field.to_python(_as_text(value))
    if isinstance(value, datetime.datetime):
        value = _read_datetime(value)
    _check_storable(value)
    return value


def _read_time(field, value, is_form):
    """Read a time of day; raise ValueError for one with an offset: Django drops it."""
    text = _as_text(value)
    if re.search("[-+Zz]", text):
        raise ValueError("A time of day has no offset.")
    return field.to_python(text)


#: What forms send for booleans, besides the texts that BooleanField takes.
_BOOLEANS = {"true": True, "on": True, "false": False, "off": False, "": False}


def _read_boolean(field, value, is_form):
    if not isinstance(value, bool):
        value = _BOOLEANS.get(_as_text(value).lower(), value)
    return field.to_python(value)


def _read_binary(field, value, is_form):
    text = _join_lines(_as_text(value))
    b64decode(text, validate=True)  # Django 5.2 drops what is no base64.
    return field.to_python(text)


def _join_lines(text):
    """Return base64 text as one line: programs break it into several.

    Other spaces stay, and are refused. They may be plus signs that a form has lost.
    """
    lines = re.split(r"[\r\n]+", text.strip())
    return "".join(line.strip(" \t") for line in lines)


def _read_json(field, value, is_form):
    return _parse_json(value) if is_form else value


def _read_file_path(field, value, is_form):
    return field.formfield(required=not field.blank).clean(value)


def _read_array(field, value, is_form):
    if isinstance(value, str):
        value = _parse_json(value)
    if not isinstance(value, list):
        raise ValueError("It is no list.")
    base = field.base_field
    return [_read_value(base, _interpret(base, item)) for item in value]


class _Kind(NamedTuple):
    """A kind of field: its types and format in JSON Schema, and how a value is read."""

    types: tuple = ()
    format: str = ""
    #: Called with the field, the value, and whether a form sent it.
    read: Callable = _read_as_text
    #: The message for a value that cannot be read.
    invalid: str = ""


#: The kinds of fields, by the name of a class: a model field and its form field mostly
#: have the same. A subclass follows its nearest base listed here.
#:
#: To add one, write a line here. A new class of values also wants a line in
#: _CONVERSIONS, which says how it becomes JSON: functions return values of no field.
#: _takes_text() says which fields can hold the empty text, and _interpret_blank() what
#: an empty text means for the others. Values that a database may change are checked by
#: a line in _VALUE_CHECKS. _FIELDS_BY_ANNOTATION has the types of parameters. A field
#: whose value is not in one column needs a _Part of its own, in _make_part().
_KINDS = {
    "ArrayField": _Kind(
        read=_read_array,
        invalid=_form_message(forms.MultipleChoiceField, "invalid_list"),
    ),
    # The database counts these keys from 1: none gets so large that it becomes text.
    "BigAutoField": _Kind(("integer",), invalid=_form_message(forms.IntegerField)),
    "BigIntegerField": _Kind(
        ("integer", "string"), invalid=_form_message(forms.IntegerField)
    ),
    "BinaryField": _Kind(("string",), "byte", _read_binary, RegexValidator.message),
    "BooleanField": _Kind(("boolean",), read=_read_boolean),
    "CharField": _Kind(("string",)),
    "ChoiceField": _Kind(("string",)),
    "DateField": _Kind(("string",), "date", invalid=_form_message(forms.DateField)),
    "DateTimeField": _Kind(
        ("string",), "date-time", invalid=_form_message(forms.DateTimeField)
    ),
    "DecimalField": _Kind(
        ("string",), "decimal", invalid=_form_message(forms.DecimalField)
    ),
    "DurationField": _Kind(
        ("string",), "duration", invalid=_form_message(forms.DurationField)
    ),
    "EmailField": _Kind(("string",), "email"),
    "FileField": _Kind(
        ("string", "null"), "binary", invalid=_form_message(forms.FileField)
    ),
    "FilePathField": _Kind(("string",), read=_read_file_path),
    "FloatField": _Kind(("number",), invalid=_form_message(forms.FloatField)),
    "GenericIPAddressField": _Kind(("string",)),
    "IntegerField": _Kind(("integer",), invalid=_form_message(forms.IntegerField)),
    "JSONField": _Kind(read=_read_json, invalid=_form_message(forms.JSONField)),
    "TextField": _Kind(("string",)),
    "TimeField": _Kind(
        ("string",), "time-local", _read_time, _form_message(forms.TimeField)
    ),
    "UUIDField": _Kind(("string",), "uuid", invalid=_form_message(forms.UUIDField)),
}


@functools.cache
def _find_kind(field_class):
    """Return the kind of a class of fields."""
    for base in field_class.__mro__:
        if base.__name__ in _KINDS:
            return _KINDS[base.__name__]
    return _Kind()


def _check_form_integer(field, value):
    """Raise ValidationError for an integer that JavaScript would round, unless the
    field is that of a BigIntegerField. SQLite would store it in any integer column."""
    is_small = _find_kind(type(field)).types == ("integer",)
    if is_small and not _takes_large_integers(field) and value is not None:
        field.run_validators(value)
        MaxValueValidator(_MAX_SAFE_INTEGER)(value)
        MinValueValidator(-_MAX_SAFE_INTEGER)(value)


def _takes_large_integers(form_field):
    """Return whether a field of a form is that of a BigIntegerField."""
    max_value = getattr(form_field, "max_value", None)
    return isinstance(max_value, int) and max_value > _MAX_SAFE_INTEGER


def _read_value(field, sent):
    """Read what was sent for a field that is neither a relation nor a file.

    Whether it is a good value (its length, range, choice) is for validation to say.
    """
    value = _read_single(field, sent)
    if value is None:
        return None
    kind = _find_kind(type(field))
    try:
        return kind.read(field, value, isinstance(sent, _FormValue))
    except ValidationError as error:
        message = getattr(error, "message", None)
        if kind.invalid and _is_of_django(field, message):
            raise _invalid_value(field, value) from None
        raise
    except _UNREADABLE:
        raise _invalid_value(field, value) from None


#: Date-times within these days are valid in every time zone.
_FIRST_DAY = datetime.date(1, 1, 2)
_LAST_DAY = datetime.date(9999, 12, 30)


def _read_datetime(value):
    """Return a date-time as USE_TZ wants it; raise ValueError at the calendar's end."""
    value = from_current_timezone(value)
    if timezone.is_aware(value):
        value = value.astimezone(datetime.timezone.utc)
    if not _FIRST_DAY <= value.date() <= _LAST_DAY:
        raise ValueError("The date-time is at the end of the calendar.")
    if timezone.is_aware(value) and not settings.USE_TZ:
        return timezone.make_naive(value)
    return value


def _read_pk(model, sent):
    """Return a pk, or the pk of an object that holds one, as its field has it."""
    if isinstance(sent, dict):
        sent = sent.get("pk")
    field = _root_key(model)
    try:
        pk = _read_value(field, sent)
        # To Python 1_0 is a number, too.
        if isinstance(pk, int) and not re.fullmatch("-?[0-9]+", str(sent)):
            raise _invalid_value(field)
        # A stored text may be one that its validators refuse by now.
        if not _takes_text(field):
            field.run_validators(pk)
    except ValidationError:
        message = _form_message(forms.ModelChoiceField, "invalid_choice")
        raise ValidationError(message) from None
    return pk


def _no_record(model, pk):
    """Return the ValidationError for a pk that no permitted record has."""
    message = _("%(model)s with pk %(pk)s does not exist.")
    params = {"model": model._meta.verbose_name, "pk": pk}
    return ValidationError(message, params=params)


def _read_file(field, sent):
    """Return the upload, False to clear the file, or None to leave it as it is."""
    value = _only_value(sent)
    if value is None or (value == "null" and isinstance(sent, _FormValue)):
        return False
    if isinstance(value, File):
        return field.formfield(required=False).clean(value, None)
    if not isinstance(value, str):
        raise _invalid_value(field)
    return None


def _read_tags(manager, sent, present=()):
    """Return the tag names that were sent, in order: a list, its JSON text, or text as
    taggit parses it.

    Each name is validated by the `name` field of the manager's tag model. Those that
    are `present` already are kept as they are, and do not count.
    """
    present = set(present)
    field = manager.remote_field.model._meta.get_field("name")
    sent_names = dict.fromkeys(_find_tag_names(manager, sent, present))
    if len(sent_names.keys() - present) > _MAX_TAGS:
        raise _too_many_tags()
    names = {}
    for name in sent_names:
        if name not in present:
            name = field.clean(name, None)
        names[name] = True
    return list(names)


def _find_tag_names(manager, sent, present):
    """Yield the tag names that were sent: those present as they are, others stripped
    and without blank ones."""
    from taggit.utils import parse_tags

    value = _only_value(sent)
    if value == "null" and value is not sent:
        raise ValidationError(manager.error_messages["null"])
    if isinstance(value, str):
        names = _parse_list(value)
        value = parse_tags(value) if names is None else names
    if not isinstance(value, list):
        raise ValidationError(_("Send the tags as a text or as a list of names."))
    if len(value) > _MAX_TAGS + len(present):
        raise _too_many_tags()
    for tag in value:
        name = tag.get("name") if isinstance(tag, dict) else tag
        if not isinstance(name, str):
            raise ValidationError(_("Send the tags as a text or as a list of names."))
        if name in present:
            yield name
        elif name.strip():
            yield name.strip()


# --- What a caller may see of related records -----------------------------------------


class _Access:
    """What the endpoints of other models let a request's user see.

    A record is shown whole inside another one only where its own endpoint would answer
    `get` to the user. Each endpoint is asked once per request.
    """

    def __init__(self, request):
        self.request = request
        self.endpoints = {}
        self.permissions = {}
        #: By model, why an expansion shows only pks: for the site's developer.
        self.reasons = {}
        #: The names of a form's fields, if the request calls a form.
        self.form_names = None

    def find_endpoint(self, model):
        """Return the endpoint of a model for the request."""
        if model not in self.endpoints:
            self.endpoints[model] = endpoint.find(model)._for_model(model, self.request)
        return self.endpoints[model]

    def admits(self, model):
        """Return whether `authenticate` of a model's endpoint lets the user call `get`.

        A model with only an encoder has no endpoint that could refuse.
        """
        if model not in self.permissions:
            self.permissions[model] = _has_only_encoder(model) or self._ask(model)
        return self.permissions[model]

    def _ask(self, model):
        model_endpoint = self.find_endpoint(model)
        label = model._meta.app_label
        try:
            answer = model_endpoint.authenticate(self.request, label, "get")
            return _is_yes(model_endpoint, "authenticate", answer)
        except core_exceptions.PermissionDenied:
            return False
        except AJAXError as error:
            if error.code not in (401, 403):
                raise
            return False

    def shows_whole(self, model):
        """Return whether records of a model may be shown whole inside other records."""
        name = endpoint.find(model).__name__
        if not self.admits(model):
            self.reasons[model] = f"{name}.authenticate refuses this user"
        elif not self.find_endpoint(model)._offers("get"):
            self.reasons[model] = f"{name}.operations has no get"
        else:
            return True
        return False

    def hides_records(self, model):
        """Return whether records of a model may be hidden from the user."""
        if not self.admits(model) or endpoint.is_closed(model):
            return True
        return _is_narrowed(model, endpoint.find(model))

    def get_queryset(self, model):
        """Return the records of a model that exist for the user."""
        if not self.admits(model) or endpoint.is_closed(model):
            return model._default_manager.none()
        return self.find_endpoint(model).get_queryset(self.request)

    def find_visible(self, model, pks):
        """Return by pk the records for which `get` would answer the user."""
        model_endpoint = self.find_endpoint(model)
        if not model_endpoint._offers("get"):
            return {}
        visible = {}
        for record in self.get_queryset(model).filter(pk__in=pks):
            if model_endpoint._allows_get(record):
                visible[record.pk] = record
        return visible

    def get_hint(self):
        """Return why expansions show only pks, as keywords of a reply."""
        texts = []
        for model, reason in self.reasons.items():
            texts.append(f"Records of {_label(model)} are not shown whole: {reason}.")
        return _hint(" ".join(texts))


def _has_only_encoder(model):
    """Return whether an encoder describes a model that has no endpoint."""
    return not endpoint.has(model) and encoder.find(model) is not None


def _get_access(request):
    """Return the request's _Access, which is made when it is first wanted."""
    if not hasattr(request, "_ajax_access"):
        request._ajax_access = _Access(request)
    return request._ajax_access


# --- Records that are encoded together ------------------------------------------------


class _Batch:
    """Records of one model that are encoded together, column by column.

    `model_endpoint` is the model's endpoint for this request. `shared` is where a part
    keeps what it has read and other parts use too.
    """

    def __init__(self, using, model_endpoint=None):
        self.using = using
        self.model_endpoint = model_endpoint
        self.shared = {}

    @property
    def pks(self):
        return self.column(0)


class _Rows(_Batch):
    """Records as the columns of a query."""

    def __init__(self, columns, using, model_endpoint=None, expressions=None):
        """Keep columns. `expressions` has the expression of each column that is not
        converted yet, by position: only columns that are used are converted."""
        super().__init__(using, model_endpoint)
        self.columns = columns
        self.expressions = expressions or {}

    def column(self, position):
        """Return one column, as its field gives it."""
        if not self.columns:
            return []
        if position in self.expressions:
            self._convert(position)
        return self.columns[position]

    def _convert(self, position):
        expression = self.expressions.pop(position)
        connection = connections[self.using]
        converters = connection.ops.get_db_converters(expression)
        converters = converters + expression.get_db_converters(connection)
        values = self.columns[position]
        for convert in converters:
            values = [convert(value, expression, connection) for value in values]
        self.columns[position] = values

    def joined_pks(self, part):
        """Return the pk of each record's joined record, which is its first column."""
        return self.column(part.start)

    def rows(self):
        """Return all rows as tuples."""
        columns = [self.column(position) for position in range(len(self.columns))]
        return zip(*columns, strict=True)

    def split(self, part):
        """Split off the records that a part joins.

        Return three results: the key of each record's joined record; the distinct keys
        without None; and a batch of the joined records, in the order of the distinct
        keys.
        """
        start = part.start
        stop = start + len(part.lookups)
        keys = self.columns[start]
        joined_rows = zip(*self.columns[start:stop], strict=True)
        rows_by_key = dict(zip(keys, joined_rows, strict=True))
        rows_by_key.pop(None, None)
        columns = list(zip(*rows_by_key.values(), strict=True))
        expressions = {}
        for position, expression in self.expressions.items():
            if start <= position < stop:
                expressions[position - start] = expression
        batch = _Rows(columns, self.using, self.model_endpoint, expressions)
        return keys, list(rows_by_key), batch


class _Instances(_Batch):
    """Records as instances, for code of the project's that wants them."""

    def __init__(self, plan, records, using, model_endpoint):
        super().__init__(using, model_endpoint)
        self.plan = plan
        self.records = records
        self.columns = {}

    def column(self, position):
        """Return one attribute of each record."""
        if position not in self.columns:
            name = self.plan.lookups[position]
            self.columns[position] = [
                _get_value(record, name) for record in self.records
            ]
        return self.columns[position]

    def joined_pks(self, part):
        """Return the pk of each record's joined record."""
        pks = []
        for record in self.records:
            joined = part.field.get_cached_value(record, None)
            pks.append(getattr(joined, "pk", None))
        return pks

    def split(self, part):
        """Return the same as `_Rows.split`, but only records that the user may get."""
        keys = []
        distinct = {}
        for record in self.records:
            joined = part.field.get_cached_value(record, None)
            if joined is None:
                keys.append(None)
            else:
                # A tuple: the pk of a record that is not saved is None, too.
                keys.append((joined.pk,))
                distinct[joined.pk] = joined
        reader = part.related.reader
        request = self.model_endpoint.request
        batch = reader.make_batch(list(distinct.values()), self.using, request)
        batch = reader.drop_refused(batch)
        return keys, [(pk,) for pk in batch.pks], batch


def _get_value(record, name):
    """Return an attribute of a record, None if it is missing or still an expression."""
    try:
        value = getattr(record, name)
    except (AttributeError, core_exceptions.ObjectDoesNotExist):
        return None
    if hasattr(value, "resolve_expression"):
        return None
    return value


#: Stands in a kept query for a value, or after `__in` for values, given at each run.
_PLACEHOLDER = RawSQL("%s", [None])


class _Statement:
    """A values_list() query of which the SQL is compiled once per database, and kept.

    Compiling is a third of the work of a `get`, and more of a `create`. The query's
    compiler is private API; only this class uses it.
    """

    def __init__(self, queryset, *fields):
        """Keep a query, and the fields that it compares with _PLACEHOLDER, in order."""
        self.queryset = queryset
        self.fields = fields
        self.compiled = {}

    def compile(self, using):
        """Return the SQL, its parameters, and by position the expression of each column
        that has to be converted."""
        key = (using, settings.USE_TZ)  # Some converters look at USE_TZ.
        if key not in self.compiled:
            compiler = self.queryset.query.get_compiler(using)
            sql, parameters = compiler.as_sql()
            selected = [column[0] for column in compiler.select]
            expressions = {}
            for position in compiler.get_converters(selected):
                expressions[position] = selected[position]
            self.compiled[key] = sql, parameters, expressions
        return self.compiled[key]

    def load(self, using, model_endpoint=None, values=(), limits=None):
        """Run the query with a value for each field; return the rows as a batch.

        A list of values stands for the values after `__in`. `limits` are the positions
        of the first row and of the row after the last one.
        """
        connection = connections[using]
        try:
            sql, parameters, expressions = self.compile(using)
        except core_exceptions.EmptyResultSet:
            return _Rows([], using, model_endpoint)
        if values:
            sql, parameters = self._fill(sql, values, connection)
        if limits:
            sql = f"{sql} {connection.ops.limit_offset_sql(*limits)}"
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            columns = list(zip(*cursor.fetchall(), strict=True))
        return _Rows(columns, using, model_endpoint, dict(expressions))

    def _fill(self, sql, values, connection):
        """Return the SQL and its parameters for the values of one run."""
        parameters = []
        for field, value in zip(self.fields, values, strict=True):
            several = value if isinstance(value, list) else [value]
            if several is value:
                marks = ", ".join(["%s"] * len(several))
                sql = sql.replace("IN (%s)", f"IN ({marks})")
            for item in several:
                # In two steps, as lookups do: in one, MySQL refuses the key 0.
                item = field.get_prep_value(item)
                item = field.get_db_prep_value(item, connection, prepared=True)
                parameters.append(item)
        return sql, parameters


def _in_order(queryset, order):
    """Return a queryset in an order, by default its own, and then by pk: pages never
    overlap."""
    order = order or queryset.query.order_by or queryset.model._meta.ordering
    return queryset.order_by(*order, "pk")


# --- The parts of a record ------------------------------------------------------------


class _Part:
    """One key of a record: it encodes what is shown, describes it, and reads what is
    sent."""

    #: The columns that the part wants of a query, as for values_list(). The plan puts
    #: them at the position `start`.
    lookups = ()
    start = None
    #: Whether the part wants instances.
    needs_records = False
    #: Whether what is sent is compared with what is shown, before it is read. If not,
    #: it is read, and the values are compared.
    compares_text = False

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
        """Read what was sent into a draft; raise ValidationError for a bad value."""

    def agrees(self, draft, sent, reply):
        """Return whether the record has what was sent, although it was not written.

        `reply` is what the client gets of the record. Raise ValidationError for a bad
        value.
        """
        return self.name in reply and _equals_shown(reply[self.name], sent)


class _Column(_Part):
    """A key whose value is in a column."""

    compares_text = True

    def __init__(self, plan, name, field):
        super().__init__(plan, name, field)
        self.lookups = [field.attname]

    def encode(self, batch):
        return _dump_column(batch.column(self.start), self.field)

    def show_stored(self, draft):
        """Return what is shown of a draft's stored record, as plain data."""
        value = _get_value(draft.stored, self.lookups[0])
        return _plain_column_value(value, self.field)

    def read(self, draft, sent):
        sent = _interpret(self.field, sent)
        if sent is _NOT_SENT:
            return
        value = _read_value(self.field, sent)
        try:
            setattr(draft.record, self.field.attname, value)
        except (AttributeError, *_UNREADABLE):
            # An attribute of a class of its own may refuse the value, as money does
            # without a currency.
            raise _invalid_value(self.field, value) from None

    def agrees(self, draft, sent, reply):
        if draft.shows(self, sent):
            return True
        trial = draft.copy_stored()
        self.read(trial, sent)
        return _is_same(self.field, draft.stored, trial.record)


class _JSONColumn(_Column):
    """A JSONField, whose values need no conversion."""

    compares_text = False

    def encode(self, batch):
        return _dump_json_values(batch.column(self.start))


class _FileColumn(_Column):
    """A file, which is shown as its URL."""

    def __init__(self, plan, name, field):
        super().__init__(plan, name, field)
        # A class of the project's may look at the instance.
        self.needs_records = not field.attr_class.__module__.startswith("django.")

    def encode(self, batch):
        files = []
        for value in batch.column(self.start):
            if not isinstance(value, FieldFile):
                value = self.field.attr_class(None, self.field, value)
            files.append(value)
        return _dump_column(files)

    def show_stored(self, draft):
        return json.loads(self.encode(draft.batch)[0])

    def read(self, draft, sent):
        file = _read_file(self.field, sent)
        if file is None:
            draft.unwritten.append(self.name)
        else:
            self.field.save_form_data(draft.record, file)

    def agrees(self, draft, sent, reply):
        return draft.shows(self, sent)


class _ForeignKey(_Column):
    """A foreign key that is shown as a pk; one to another field than the pk is looked
    up."""

    compares_text = False

    def __init__(self, plan, field):
        super().__init__(plan, field.name, field)
        self.target = field.target_field

    def find_pks(self, batch):
        """Return the pk that each record refers to."""
        keys = batch.column(self.start)
        if self.target.primary_key:
            return keys
        if self not in batch.shared:
            related = self.field.remote_field.model
            queryset = related._base_manager.using(batch.using)
            queryset = queryset.filter(
                **{f"{self.target.name}__in": set(keys) - {None}}
            )
            batch.shared[self] = dict(queryset.values_list(self.target.name, "pk"))
        pks_by_key = batch.shared[self]
        return [pks_by_key.get(key) for key in keys]

    def encode(self, batch):
        return _dump_column(self.find_pks(batch))

    def read(self, draft, sent):
        sent = _interpret(self.field, sent)
        if sent is _NOT_SENT or self.keeps(draft, sent):
            return
        value = _read_single(self.field, sent)
        if value is None:
            setattr(draft.record, self.field.name, None)
            return
        pk = _read_pk(self.field.remote_field.model, value)
        if self.can_refer(draft, pk):
            setattr(draft.record, self.field.attname, pk)
        else:
            records = draft.find_related(self.field, [pk])
            setattr(draft.record, self.field.name, records[pk])
        key = getattr(draft.record, self.field.attname)
        self.field.run_validators(key)
        draft.checked_keys[self] = key

    def agrees(self, draft, sent, reply):
        sent = _interpret(self.field, sent)
        return sent is _NOT_SENT or self.keeps(draft, sent)

    def keeps(self, draft, sent):
        """Return whether the stored record refers to what was sent already.

        Such a value may stay, so that a record that was read can be sent back whole.
        """
        if draft.stored is None:
            return False
        value = _find_single(self.field, sent)
        if value is None:
            return self.shows_null(draft)
        pk = _read_pk(self.field.remote_field.model, value)
        return pk == self.find_stored_pk(draft)

    def shows_null(self, draft):
        """Return whether `get` shows null for the stored key, which may refer to
        nothing."""
        if getattr(draft.stored, self.field.attname) is None:
            return True
        return not self.field.db_constraint and self.encode(draft.batch) == ["null"]

    def find_stored_pk(self, draft):
        """Return the pk that the stored record refers to, None if it is no record's."""
        key = getattr(draft.stored, self.field.attname)
        if self.target.primary_key:
            return key
        queryset = self.field.remote_field.model._base_manager.using(draft.batch.using)
        queryset = queryset.filter(**{self.target.name: key})
        return queryset.values_list("pk", flat=True).first()

    def can_refer(self, draft, pk):
        """Return whether the record with a pk may be referred to, by a kept statement.

        Return False also where only a query of the project's own can say.
        """
        if _overrides(type(draft.model_endpoint), "get_field_queryset"):
            return False
        if self.field.get_limit_choices_to() or not self.target.primary_key:
            return False
        plan = _get_plan(self.field.remote_field.model, None, True)
        access = _get_access(draft.request)
        if plan.is_closed or not access.admits(plan.model):
            return False
        model_endpoint = plan.reader.make_endpoint(draft.request)
        using = router.db_for_write(plan.model)
        batch = plan.reader.load_one(pk, model_endpoint, using)
        return bool(plan.reader.drop_refused(batch).pks)


class _ExpandedKey(_ForeignKey):
    """A foreign key that is shown as the whole record, by the plan `related`."""

    def __init__(self, plan, field, related):
        super().__init__(plan, field)
        self.related = related

    def find_texts(self, batch):
        """Return the JSON text of each record's related record, None for no record."""

    def encode(self, batch):
        if not self.related.shows_whole(batch):
            return _dump_column(self.find_pks(batch))
        texts = self.find_texts(batch)
        if None not in texts:
            return texts
        if not self.related.hides_records:
            return [text or "null" for text in texts]
        # The record may exist, hidden from this user: show only its pk.
        pks = _dump_column(self.find_pks(batch))
        return [text or pk for text, pk in zip(texts, pks, strict=True)]

    def describe(self):
        # Wherever it is expanded, some users see only the pk.
        pk_schema = {"type": ["string"], **_describe_field(self.field)}
        _allow_null(pk_schema)
        record = _refer_to_schema(self.related.model, self.related.left_out)
        return {"anyOf": [record, pk_schema]}


class _JoinedKey(_ExpandedKey):
    """One that is read by a join. A record that several others refer to is encoded
    once."""

    def __init__(self, plan, field, related):
        super().__init__(plan, field, related)
        self.lookups = [f"{field.name}__{lookup}" for lookup in related.lookups]
        self.joins = [field.name]
        for join in related.joins:
            self.joins.append(f"{field.name}__{join}")
        self.needs_records = related.needs_records

    def find_pks(self, batch):
        return batch.joined_pks(self)

    def find_texts(self, batch):
        keys, distinct_keys, related = batch.split(self)
        texts = self.related.encode(related)
        texts_by_key = dict(zip(distinct_keys, texts, strict=True))
        return [texts_by_key.get(key) for key in keys]


class _FetchedKey(_ExpandedKey):
    """One that is read by a query of its own. Keys to the same model with the same
    expansion are its `peers`, and share the query."""

    def __init__(self, plan, field, related, peers):
        super().__init__(plan, field, related)
        self.peers = peers
        peers.append(self)

    def find_texts(self, batch):
        if self.related not in batch.shared:
            pks = set()
            for peer in self.peers:
                pks.update(peer.find_pks(batch))
            pks.discard(None)
            batch.shared[self.related] = self.related.reader.fetch(pks, batch)
        texts_by_pk = batch.shared[self.related]
        return [texts_by_pk.get(pk) for pk in self.find_pks(batch)]


class _Members(_Part):
    """A many-to-many relation, which is shown as a list of pks."""

    def __init__(self, plan, field):
        super().__init__(plan, field.name, field)
        self.clean = plan.model._meta.pk.to_python
        self.source = f"{field.m2m_field_name()}__pk"
        target = f"{field.m2m_reverse_field_name()}__pk"
        through = field.remote_field.through
        self.rows = through._base_manager.values_list(self.source, target)

    def find_members(self, batch):
        """Return the list of the members' pks for each record."""
        pks = [self.clean(pk) for pk in batch.pks]
        rows = self.rows.using(batch.using)
        rows = rows.filter(**{f"{self.source}__in": set(pks) - {None}})
        members = {pk: [] for pk in pks}
        # A key without a constraint may refer to nothing.
        complete_rows = {row for row in rows if None not in row}
        for pk, member in sorted(complete_rows):
            members[pk].append(member)
        return [members[pk] for pk in pks]

    def encode(self, batch):
        return _dump_column(self.find_members(batch))

    def read(self, draft, sent):
        members = self.find_stored_members(draft)
        pks = self.read_pks(sent, len(members))
        if pks == members and draft.stored is not None:
            return
        if not pks and not self.field.blank:
            raise _required()
        # Members may stay: a record that was read can be sent back whole.
        added = pks - members
        if len(added) > _MAX_MEMBERS:
            raise _too_many_members()
        draft.find_related(self.field, added)
        draft.relations[self] = pks

    def read_pks(self, sent, member_count):
        """Return the set of the pks that were sent for a record with some members."""
        values = _read_several(sent)
        if len(values) > _MAX_MEMBERS + member_count:
            raise _too_many_members()
        related = self.field.remote_field.model
        return {_read_pk(related, value) for value in values}

    def find_stored_members(self, draft):
        """Return the set of the pks of the stored record's members."""
        if draft.stored is None:
            return set()
        rows = self.rows.using(draft.batch.using)
        rows = rows.filter(**{self.source: draft.stored.pk})
        return {member for _pk, member in rows if member is not None}

    def agrees(self, draft, sent, reply):
        members = reply.get(self.name, [])
        return self.read_pks(sent, len(members)) == self.read_pks(members, len(members))

    def save(self, record, pks):
        """Save the members of a record, those that its manager hides among them."""
        getattr(record, self.name)(manager="_base_manager").set(pks)


class _ExpandedMembers(_Members):
    """A many-to-many relation that is shown as a list of whole records, by the plan
    `related`. A record that the user may not see is its pk."""

    def __init__(self, plan, field, related):
        super().__init__(plan, field)
        self.related = related

    def encode(self, batch):
        members = self.find_members(batch)
        pks = set(itertools.chain.from_iterable(members))
        texts = dict(zip(pks, _dump_column(list(pks)), strict=True))
        if self.related.shows_whole(batch):
            texts.update(self.related.reader.fetch(pks, batch))
        column = []
        for member_pks in members:
            column.append(f"[{','.join(texts[pk] for pk in member_pks)}]")
        return column

    def describe(self):
        schema = self.related.describe()
        [pk_type, *_more] = _describe_field(self.field)["items"].get("type", ["string"])
        schema["type"] = ["object", pk_type]
        return _describe_list(schema)


class _Children(_Part):
    """The records whose foreign key refers to this one, as a list of whole records, by
    the plan `related`. A OneToOneField gives one record, or null.

    Records that the user may not see are left out.
    """

    def __init__(self, plan, name, relation, related):
        super().__init__(plan, name)
        self.relation = relation
        self.related = related
        #: The column that the foreign key refers to.
        self.lookups = [relation.field.target_field.attname]

    def encode(self, batch):
        keys = batch.column(self.start)
        texts = {key: [] for key in keys}
        if self.related.shows_whole(batch):
            children = self.related.reader.load_children(set(keys) - {None}, batch)
            parents = children.column(self.related.parent_position)
            encoded = self.related.encode(children)
            for parent, text in zip(parents, encoded, strict=True):
                texts[parent].append(text)
        if self.relation.one_to_one:
            return ["".join(texts[key]) or "null" for key in keys]
        return [f"[{','.join(texts[key])}]" for key in keys]

    def describe(self):
        schema = self.related.describe()
        if self.relation.one_to_one:
            schema["type"] = ["object", "null"]
            return schema
        return _describe_list(schema)


class _Annotation(_Part):
    """A value that the endpoint's `annotations` add to the query."""

    def __init__(self, plan, name):
        super().__init__(plan, name)
        self.lookups = [name]

    def encode(self, batch):
        return _dump_column(batch.column(self.start))

    def describe(self):
        field = self.plan.annotations.find_field(self.name)
        if field is None:
            return {}
        schema = _describe_field(field)
        _allow_null(schema)
        return schema


class _Tags(_Part):
    """The tags of a TaggableManager, as a list of {"pk", "name", "slug"}.

    They are read from the through table: taggit's own prefetch builds a queryset for
    every row.
    """

    template = '{"pk":%s,"name":%s,"slug":%s}'

    def __init__(self, plan, field):
        super().__init__(plan, field.name, field)
        self.model = plan.model
        self.through = field.through
        self.key = self.find_key(field)
        self.key_name = self.key.attname
        self.is_generic = not self.key.is_relation

    @staticmethod
    def find_key(manager):
        """Return the field of the through table that refers to the record."""
        from taggit.models import CommonGenericTaggedItemBase

        if issubclass(manager.through, CommonGenericTaggedItemBase):
            return manager.through._meta.get_field("object_id")
        return manager.through._meta.get_field("content_object")

    @cached_property
    def order(self):
        """The manager's own `ordering`, as names of the through table."""
        names = []
        for name in self.field.ordering or ():
            sign = "-" if name.startswith("-") else ""
            names.append(f"{sign}tag__{name.removeprefix('-')}")
        return names

    @cached_property
    def rows(self):
        """The statement for the tags of some records."""
        conditions = {f"{self.key_name}__in": _PLACEHOLDER}
        fields = [self.key]
        if self.is_generic:
            conditions = {"content_type": _PLACEHOLDER, **conditions}
            fields.insert(0, self.through._meta.get_field("content_type"))
        rows = models.QuerySet(self.through).filter(**conditions).order_by(*self.order)
        columns = ("pk", self.key_name, "tag_id", "tag__name", "tag__slug")
        return _Statement(rows.values_list(*columns), *fields)

    def must_cast(self, model):
        """Return whether the key is text, as generic keys may be, and a model's pk is
        not."""
        is_text_pk = isinstance(_root_key(model), _TEXT_FIELDS)
        return isinstance(self.key, _TEXT_FIELDS) and not is_text_pk

    def get_record_pk(self, model):
        """Return the through table's key, as a pk of a model."""
        if self.must_cast(model):
            return Cast(self.key_name, _root_key(model))
        return F(self.key_name)

    @property
    def outer_pk(self):
        """The pk of an outer query's record, as a key of the through table."""
        if self.must_cast(self.model):
            return Cast(OuterRef("pk"), self.key)
        return OuterRef("pk")

    def get_content_type(self, model):
        from django.contrib.contenttypes.models import ContentType

        return ContentType.objects.get_for_model(model)

    def get_items(self, model, using=None):
        """Return the through table's rows of a model."""
        items = self.through._base_manager.all()
        if self.is_generic:
            items = items.filter(content_type=self.get_content_type(model))
        return items.using(using) if using else items

    def match_any(self, value):
        """Return the condition that a record has any of the tags that were sent, or
        that it is the parent of a record that has."""
        lookup = "tag__name__exact"
        if getattr(settings, "TAGGIT_CASE_INSENSITIVE", False):
            lookup = "tag__name__iexact"
        names = _read_tags(self.field, value)
        if not names:
            return Q(pk__in=[])
        is_named = Q.create([(lookup, name) for name in names], connector=Q.OR)
        condition = Q(pk__in=self.find_tagged(self.model, is_named))
        if self.is_generic:
            # The tags of a child have the child's content type.
            for child in _find_children(self.model):
                tagged = self.find_tagged(child, is_named)
                queryset = child._base_manager.filter(pk__in=tagged)
                condition |= Q(pk__in=queryset.values(self.model._meta.pk.name))
        return condition

    def find_tagged(self, model, is_named):
        """Return the query for the pks of a model's records with some tags."""
        items = self.get_items(model).filter(is_named)
        return items.values_list(self.get_record_pk(model))

    def rank(self, queryset, pk, using):
        """Return the records of a queryset that share tags with a record, most shared
        first."""
        items = self.get_items(self.model, using)
        own_tags = items.filter(**{self.key_name: pk}).values("tag_id")
        shared = items.filter(tag_id__in=own_tags)
        shared_by_one = shared.filter(**{self.key_name: self.outer_pk}).order_by()
        count = shared_by_one.values(self.key_name).values(shared=Count("pk"))
        similar_pks = shared.values_list(self.get_record_pk(self.model))
        similar = queryset.filter(pk__in=similar_pks)
        return similar.order_by(Subquery(count).desc(), "pk")

    def load_rows(self, pks, using):
        """Return the rows of some records: their pk, key, tag's pk, name and slug."""
        if not pks:
            return []
        values = [list(pks)]
        if self.is_generic:
            values.insert(0, self.get_content_type(self.model).pk)
        rows = self.rows.load(using, values=values).rows()
        if self.order:
            return list(rows)
        # Sort in Python: ORDER BY the pk makes SQLite scan the whole table.
        return sorted(rows)

    def encode(self, batch):
        return self.encode_tags(batch.pks, batch.using)

    def encode_tags(self, pks, using):
        """Return the JSON text of the tags of each record."""
        keys = [self.key.to_python(pk) for pk in pks]
        rows = self.load_rows(set(keys) - {None}, using)
        texts_by_tag = self.encode_each_tag(rows)
        texts_by_key = {key: [] for key in keys}
        for _item, key, tag, _name, _slug in rows:
            texts_by_key[key].append(texts_by_tag[tag])
        return [f"[{','.join(texts_by_key[key])}]" for key in keys]

    def encode_each_tag(self, rows):
        """Return by pk the JSON text of each tag in the rows."""
        tags = {tag: (tag, name, slug) for _item, _key, tag, name, slug in rows}
        columns = zip(*tags.values(), strict=True)
        text_columns = [_dump_column(column) for column in columns]
        texts_by_tag = {}
        for tag, texts in zip(tags, zip(*text_columns, strict=True), strict=True):
            texts_by_tag[tag] = self.template % texts
        return texts_by_tag

    def read(self, draft, sent):
        stored_names = []
        if draft.stored is not None:
            stored_names = self.find_names(draft.stored, draft.batch.using)
        names = _read_tags(self.field, sent, stored_names)
        if set(names) == set(stored_names) and draft.stored is not None:
            return
        if not names and not self.field.blank:
            raise _required()
        draft.relations[self] = names

    def find_names(self, record, using):
        """Return the names of a record's tags."""
        rows = self.load_rows({self.key.to_python(record.pk)}, using)
        return [name for _item, _key, _tag, name, _slug in rows]

    def agrees(self, draft, sent, reply):
        names = [tag["name"] for tag in reply.get(self.name, [])]
        return set(_read_tags(self.field, sent, names)) == set(names)

    def save(self, record, names):
        """Save the tags of a record."""
        getattr(record, self.name).set(names)


class _AnyRecord(_Part):
    """A key whose records may be of several models. Each record is shown as that of an
    expanded foreign key."""

    def __init__(self, plan, name):
        super().__init__(plan, name)
        self.plans = {}

    def describe(self):
        return {}

    def find_plan(self, model):
        """Return the plan for records of a model, None if only their pks are shown."""
        if model not in self.plans:
            plan = self.plan.make_related_plan(self.name, model)
            # Clients may choose the model of a GenericForeignKey: show only models of
            # which the project said what may be seen.
            if plan and not (plan.is_configured or _is_user_model(model)):
                plan = None
            self.plans[model] = plan
        return self.plans[model]

    def fetch(self, model, pks, batch):
        """Return by pk the JSON text of the records that the user may see."""
        plan = self.find_plan(model)
        if plan and plan.shows_whole(batch):
            return plan.reader.fetch(pks, batch)
        return {}


class _GenericKey(_AnyRecord):
    """A GenericForeignKey. Its records are read with one query for each model.

    One that refers to nothing, or to no key of its model, is null.
    """

    def __init__(self, plan, name, field):
        super().__init__(plan, name)
        kind = plan.model._meta.get_field(field.ct_field)
        self.lookups = [kind.attname, field.fk_field]

    def encode(self, batch):
        kinds = batch.column(self.start)
        keys = batch.column(self.start + 1)
        models_by_kind = {kind: self.find_model(kind) for kind in set(kinds)}
        references = []
        pks_by_model = {}
        for kind, key in zip(kinds, keys, strict=True):
            model = models_by_kind[kind]
            pk = self.find_pk(model, key)
            references.append((model, pk))
            if pk is not None:
                pks_by_model.setdefault(model, set()).add(pk)
        texts = {}
        for model, pks in pks_by_model.items():
            for pk, text in self.find_texts(model, pks, batch).items():
                texts[model, pk] = text
        return [texts.get(reference, "null") for reference in references]

    def find_model(self, kind):
        """Return the model of a content type's pk, None if it is gone."""
        from django.contrib.contenttypes.models import ContentType

        if kind is None:
            return None
        try:
            return ContentType.objects.get_for_id(kind).model_class()
        except ContentType.DoesNotExist:
            return None

    def find_pk(self, model, key):
        """Return a key as a pk of a model, None if it cannot be one."""
        if model is None or key is None:
            return None
        try:
            return _read_pk(model, str(key))
        except ValidationError:
            return None

    def find_texts(self, model, pks, batch):
        """Return by pk the JSON text of the records that exist: whole, or their pk."""
        texts = self.fetch(model, pks, batch)
        missing = pks.difference(texts)
        if missing:
            queryset = model._base_manager.filter(pk__in=missing)
            existing = list(queryset.values_list("pk", flat=True))
            texts.update(zip(existing, _dump_column(existing), strict=True))
        return texts


class _Extra(_AnyRecord):
    """A property or method of the endpoint or the model that `fields` names."""

    needs_records = True

    def __init__(self, plan, name):
        super().__init__(plan, name)
        self.is_of_endpoint = _defines(plan.endpoint_class, name)

    def encode(self, batch):
        values = []
        for record in batch.records:
            values.append(self.get_value(record, batch.model_endpoint))
        return _dump_column(_to_plain(values, partial(self.expand, batch)))

    def get_value(self, record, model_endpoint):
        if self.is_of_endpoint:
            value = getattr(model_endpoint, self.name)
            return value(record) if callable(value) else value
        value = getattr(record, self.name)
        return value() if callable(value) else value

    def expand(self, batch, records):
        """Return records among the values as any expansion shows them."""
        pks_by_model = {}
        for record in records:
            pks_by_model.setdefault(record._meta.model, set()).add(record.pk)
        shown = {}
        for model, pks in pks_by_model.items():
            for pk, text in self.fetch(model, pks - {None}, batch).items():
                shown[model, pk] = _load(text)
        expanded = []
        for record in records:
            key = (record._meta.model, record.pk)
            expanded.append(shown[key] if key in shown else _plain_pk(record))
        return expanded


# --- Annotations ----------------------------------------------------------------------


class _Annotations:
    """What an endpoint class adds to the queries of a model, by name.

    Each aggregate gets a subquery of its own: in one query they would multiply each
    other, and group all rows for one page.
    """

    def __init__(self, model, endpoint_class):
        self.model = model
        self.given = endpoint_class.annotations
        #: Those that need no request.
        self.static = {}
        for name, expression in self.given.items():
            if not self.wants_request(name):
                self.static[name] = self.isolate(expression)

    def wants_request(self, name):
        """Return whether an annotation is a function of the request."""
        return not hasattr(self.given[name], "resolve_expression")

    def isolate(self, expression):
        """Return an expression as it is, or an aggregate as a subquery."""
        queryset = self.model._base_manager.order_by()
        annotated = queryset.annotate(ajax_value=expression)
        resolved = annotated.query.annotations["ajax_value"]
        if not resolved.contains_aggregate:
            return expression
        of_one = queryset.filter(pk=OuterRef("pk")).values("pk")
        of_one = of_one.annotate(ajax_value=expression).values("ajax_value")
        return Subquery(of_one, output_field=resolved.output_field)

    def add(self, queryset, request):
        """Return a queryset with the annotations; without a request, with the static
        ones."""
        expressions = dict(self.static)
        if request is not None:
            for name in self.given:
                if name not in expressions:
                    expressions[name] = self.isolate(self.given[name](request))
        return queryset.annotate(**expressions)

    def find_field(self, name, request=None):
        """Return the field that an annotation's values are of; None for a function of
        the request, if there is no request."""
        queryset = self.add(self.model._base_manager.all(), request)
        if name not in queryset.query.annotations:
            return None
        return queryset.query.annotations[name].output_field


# --- The plan: what a model looks like ------------------------------------------------


class _Expansions:
    """What all plans of one reply join and expand together, which is limited."""

    def __init__(self):
        # A join would bypass the database routers.
        self.joins_left = 0 if settings.DATABASE_ROUTERS else _MAX_JOINS
        #: The models that are shown whole, one for each place.
        self.models = []


class _Plan:
    """What one model looks like at one place of a reply.

    Each of its `parts` encodes one key. `lookups` are the columns that the parts want
    of a query, and `joins` the relations to select. The records are read as rows,
    unless code of the project's wants instances (`needs_records`).
    """

    def __init__(
        self,
        model,
        endpoint_class=None,
        has_request=False,
        html_escape=False,
        chosen_encoder=None,
        levels=None,
        outer=None,
        parent_key=None,
    ):
        """Plan a model at the top of a reply, or inside the plan `outer`.

        `levels` are what may still be expanded: a number of levels or a tree of names.
        Without a request, a related model whose hooks need one shows only its pk.
        `parent_key` is the foreign key by which the records are children of others.
        """
        _autodiscover()
        self.model = model
        self.endpoint_class = endpoint_class or endpoint.find(model)
        self.encoder = chosen_encoder or encoder.find(model)
        self.has_request = has_request
        self.parent_key = parent_key
        self.annotations = _Annotations(model, self.endpoint_class)
        self._set_access()
        self._set_escaping(html_escape, outer)
        self._set_expansion(levels, outer)
        self._make_parts()
        self._place_parts()
        self.reader = _Reader(self)

    def _set_access(self):
        """Work out who may see which records."""
        self.asks_can_get = self.has_request and _overrides(
            self.endpoint_class, "can_get"
        )
        self.is_narrowed = _is_narrowed(self.model, self.endpoint_class)
        self.hides_records = self.asks_can_get or self.is_narrowed
        self.is_closed = endpoint.is_closed(self.model)
        #: Whether the project says what of the model may be seen.
        self.is_configured = endpoint.has(self.model) or self.encoder is not None

    def _set_escaping(self, html_escape, outer):
        """Work out whether texts are escaped here, or by an outer plan already."""
        is_escaped_outside = outer is not None and outer.is_escaped
        wants_escaping = html_escape or getattr(self.encoder, "html_escape", False)
        self.is_escaped = wants_escaping or is_escaped_outside
        self.escapes = self.is_escaped and not is_escaped_outside

    def _set_expansion(self, levels, outer):
        """Work out what is expanded, below which models."""
        self.outer = outer
        self.levels = levels
        if levels is None:
            self.levels = _read_expand(self.endpoint_class.expand)
        concrete = self.model._meta.concrete_model
        if outer is None:
            self.ancestors = [concrete]
            self.expansions = _Expansions()
        else:
            self.ancestors = [*outer.ancestors, concrete]
            self.expansions = outer.expansions

    # Parts

    def _make_parts(self):
        """Make the part for each key that is shown."""
        #: By what they expand, the plan of foreign keys that share a query, and them.
        self.peers = {}
        self.parts = [_Column(self, "pk", self.model._meta.pk)]
        #: The keys that these records have elsewhere, but not inside of others.
        self.left_out = []
        fields = _model_fields(self.model)
        for name in _select_shown(self.model, self.endpoint_class, self.encoder):
            part = self._make_part(name, fields.get(name))
            if part is not None:
                self.parts.append(part)
            elif self.outer is not None:
                self.left_out.append(name)
        self.names = [part.name for part in self.parts]
        keys = [f"{_dump(name)}:%s" for name in self.names]
        self.template = "{" + ",".join(keys) + "}"

    def _place_parts(self):
        """Work out what the parts want of a query, and give each its position."""
        self.lookups = []
        self.joins = []
        self.tag_parts = {}
        for part in self.parts:
            part.start = len(self.lookups)
            self.lookups.extend(part.lookups)
            if isinstance(part, _JoinedKey):
                self.joins.extend(part.joins)
            elif isinstance(part, _Tags):
                self.tag_parts[part.name] = part
        if self.parent_key is not None:
            self.parent_position = len(self.lookups)
            self.lookups.append(self.parent_key.attname)
        self.is_custom = self.encoder is not None and self.encoder._is_custom
        self.needs_records = (
            self.is_custom
            or self.asks_can_get
            or _needs_instances(self.model)
            or any(part.needs_records for part in self.parts)
        )

    def _make_part(self, name, field):
        """Return the part for a name, None if its key is left out."""
        if field is None:
            return self._make_extra(name)
        if field is self.parent_key:
            return None
        if isinstance(field, models.ForeignKey):
            return self._make_key(field)
        if _is_tags_manager(field):
            return _Tags(self, field)
        if field.many_to_many:
            return self._make_members(field)
        if isinstance(field, models.FileField):
            return _FileColumn(self, name, field)
        if isinstance(field, models.JSONField):
            return _JSONColumn(self, name, field)
        return _Column(self, name, field)

    def _make_extra(self, name):
        """Return the part for a name that is no field with a column."""
        if name in self.endpoint_class.annotations:
            if self.annotations.wants_request(name) and not self.has_request:
                return None
            return _Annotation(self, name)
        relation = _find_child_relation(self.model, name)
        if relation is not None:
            return self._make_children(name, relation)
        for field in self.model._meta.private_fields:
            if field.name == name and hasattr(field, "ct_field"):
                return _GenericKey(self, name, field)
        return _Extra(self, name)

    def _make_members(self, field):
        """Return the part for a many-to-many relation: records if `expand` names it."""
        related = field.remote_field.model
        if isinstance(self.levels, dict):
            plan = self.make_related_plan(field.name, related)
            if plan is not None:
                return _ExpandedMembers(self, field, plan)
        return _Members(self, field)

    def _make_children(self, name, relation):
        """Return the part for the children of a record, None if they are left out.

        At the top of a reply they are always there. Inside other records they use up a
        level. Without a level they are left out, since their pks would reveal children
        that the user may not see.
        """
        related = relation.related_model
        levels = self._find_levels(name, related)
        if levels is None and self.outer is None and not self._stays_pk(related):
            levels = {} if isinstance(self.levels, dict) else 0
        if levels is None:
            return None
        plan = self._make_related(related, levels, relation.field)
        return _Children(self, name, relation, plan)

    def _make_key(self, field):
        """Return the part for a foreign key: a pk, or a record, joined or fetched."""
        related = field.remote_field.model
        levels = self._find_levels(field.name, related)
        if levels is None:
            return _ForeignKey(self, field)
        if self._can_join(field, related):
            self.expansions.joins_left -= _count_tables(related)
            return _JoinedKey(self, field, self._make_related(related, levels))
        peers_key = (related, repr(levels))  # A tree of names has no hash.
        if peers_key not in self.peers:
            self.peers[peers_key] = self._make_related(related, levels), []
        related_plan, peers = self.peers[peers_key]
        return _FetchedKey(self, field, related_plan, peers)

    def _can_join(self, field, related):
        """Return whether an expanded foreign key is read by a join.

        The database must enforce the key, since a join drops the row of a dangling one.
        The project must neither choose the related records nor add to their query. And
        enough joins must be left.
        """
        if not field.db_constraint:
            return False
        endpoint_class = endpoint.find(related)
        if _is_narrowed(related, endpoint_class) or endpoint_class.annotations:
            return False
        return self.expansions.joins_left >= _count_tables(related)

    def make_related_plan(self, name, related):
        """Return a plan for the records that a name expands to, None for pks."""
        levels = self._find_levels(name, related)
        if levels is None:
            return None
        return self._make_related(related, levels)

    def _make_related(self, related, levels, parent_key=None):
        self.expansions.models.append(related)
        return _Plan(
            related,
            has_request=self.has_request,
            levels=levels,
            outer=self,
            parent_key=parent_key,
        )

    def _stays_pk(self, related):
        """Return whether no records of a model are shown inside of these: the model is
        closed, its hooks want a user and there is none, or there are too many."""
        if endpoint.is_closed(related):
            return True
        if not self.has_request and _wants_request(endpoint.find(related)):
            return True
        return len(self.expansions.models) >= _MAX_EXPANSIONS

    def _find_levels(self, name, related):
        """Return how far a relation is expanded, None if only the pk is shown.

        The pk is shown if no levels are left, if the model is expanded on the way here,
        or if nobody may see its records.
        """
        if self._stays_pk(related):
            return None
        endpoint_class = endpoint.find(related)
        if isinstance(self.levels, dict):
            return self.levels.get(name)
        if self.levels < 1 or related._meta.concrete_model in self.ancestors:
            return None
        levels = _read_expand(endpoint_class.expand)
        if isinstance(levels, dict):
            return levels
        return min(self.levels - 1, levels)

    # Writing

    @cached_property
    def writable(self):
        """The parts that clients may write, by the key that they are sent under."""
        endpoint_class = self.endpoint_class
        if endpoint_class.fields is None and _is_user_model(self.model):
            return {}
        writable = {}
        for part in self.parts[1:]:
            if part.field and _is_writable(part.field, self._is_named(part.name)):
                writable[part.name] = part
        never = {
            *endpoint_class.readonly_fields,
            *endpoint_class.immutable_fields,
            *endpoint_class.exclude,
            endpoint_class.version_field,
        }
        if part := self._make_writable_key(never):
            writable["pk"] = part
            writable[part.field.name] = part
        elif not never.isdisjoint(self._key_names):
            never |= self._key_names
        return {name: part for name, part in writable.items() if name not in never}

    @cached_property
    def updatable(self):
        """By name, the parts that are written of a stored record: all but its key."""
        updatable = {}
        for name, part in self.writable.items():
            if not part.field.primary_key:
                updatable[name] = part
        return updatable

    def _is_named(self, name):
        """Return whether `fields` names a field, and not just all of them."""
        fields = self.endpoint_class.fields
        return fields not in (None, "__all__") and name in fields

    @cached_property
    def _written_key(self):
        """The field that a pk is written to: a parent's, where the model has one."""
        key = self.model._meta.pk
        return _root_key(self.model) if _is_parent_link(key) else key

    @cached_property
    def known_names(self):
        """The names that may be sent, though not all of them are written."""
        return {*self.names, *self.writable, *_pk_names(self.model)}

    @cached_property
    def _key_names(self):
        """All names of the primary key."""
        names = _pk_names(self.model)
        return names | {self._written_key.name, self.model._meta.pk.name}

    def _make_writable_key(self, never):
        """Return the part for a primary key that clients may choose, or None."""
        key = self._written_key
        is_named = any(self._is_named(name) for name in self._key_names)
        if not is_named or not never.isdisjoint(self._key_names):
            return None
        if isinstance(key, models.AutoField):
            return None
        if isinstance(key, models.ForeignKey):
            return _ForeignKey(self, key)
        return _Column(self, "pk", key)

    # Describing and encoding

    def shows_whole(self, batch):
        """Return whether the user may see the model's records inside those of a batch.

        Without a user, nobody is asked: the plan has only what anybody may see.
        """
        request = batch.model_endpoint.request
        return request is None or _get_access(request).shows_whole(self.model)

    def describe(self, is_written=False):
        """Return the schema of a record. If it `is_written` too, mark the keys that
        clients cannot write as readOnly."""
        if self.is_custom:
            return {"type": "object"}
        properties = {}
        for part in self.parts:
            schema = part.describe()
            if is_written and part.name not in self.writable:
                schema = {**schema, "readOnly": True}
            properties[part.name] = schema
        return _describe_object(properties)

    def encode(self, batch):
        """Return the JSON text of each record of a batch."""
        if not batch.pks:
            return []
        texts = self.encode_parts(batch)
        if self.is_custom:
            texts = self._encode_custom(batch, texts)
        return self.escape(texts)

    def encode_parts(self, batch):
        """Return the JSON text of each record; neither ask a custom encoder nor escape
        it."""
        columns = [part.encode(batch) for part in self.parts]
        return [self.template % texts for texts in zip(*columns, strict=True)]

    def escape(self, texts):
        """Return JSON texts as they are, or with the texts in them escaped for HTML."""
        if not self.escapes:
            return texts
        return [_dump(_escape_texts(json.loads(text))) for text in texts]

    def _encode_custom(self, batch, texts):
        """Let the model's encoder say what is shown; drop what the endpoint hides."""
        texts_by_id = dict(zip(map(id, batch.records), texts, strict=True))
        token = _encoding.set((self.encoder, texts_by_id))
        try:
            dicts = [
                _to_plain(self.encoder.to_dict(record)) for record in batch.records
            ]
        finally:
            _encoding.reset(token)
        for shown in dicts:
            for name in self._hidden_names.intersection(shown):
                del shown[name]
        return _dump_each(dicts)

    @cached_property
    def own_attributes(self):
        """The columns whose attribute is of a class of the project's."""
        return _find_own_attributes(self.model)

    @cached_property
    def _hidden_names(self):
        """The names of the model's fields that its endpoint does not show."""
        visible = _find_visible_names(self.model, self.endpoint_class)
        names = set()
        for name, field in _model_fields(self.model).items():
            if name not in visible:
                names.update([name, getattr(field, "attname", name)])
        return names


def _find_child_relation(model, name):
    """Return the relation of the foreign keys to a model whose accessor has a name,
    None if there is none."""
    for relation in model._meta.related_objects:
        is_key = relation.one_to_many or relation.one_to_one
        if not is_key or relation.hidden or relation.parent_link:
            continue
        if relation.get_accessor_name() == name:
            return relation
    return None


def _count_tables(model):
    """Return how many tables a join of a model takes: its own and its parents'."""
    return 1 + len(model._meta.all_parents)


def _wants_request(endpoint_class):
    """Return whether an endpoint class restricts who may see its records.

    The default login does not count.
    """
    operations = endpoint_class.operations
    if operations is not None and "get" not in operations:
        return True
    for hook in ("authenticate", "get_queryset", "can_get"):
        if _overrides(endpoint_class, hook):
            return True
    return False


@functools.cache
def _make_plan(_is_routed, *arguments):
    return _Plan(*arguments)


def _forget_plans():
    """Forget what was made of the registries."""
    _make_plan.cache_clear()
    _find_served_tables.cache_clear()


def _get_plan(*arguments):
    """Return the plan at the top of a reply, kept until something is registered."""
    _autodiscover()
    return _make_plan(bool(settings.DATABASE_ROUTERS), *arguments)


# --- The reader: how a model is queried -----------------------------------------------


class _Reader:
    """How the records of a plan's model are queried, and put into batches."""

    def __init__(self, plan):
        self.plan = plan
        self.model = plan.model

    # The statements that are kept

    @cached_property
    def _kept_queryset(self):
        """The query for all rows, which is the same for everybody.

        It is None if the project chooses the records, adds to the query, or needs the
        records, as can_get does.
        """
        if self.plan.is_narrowed or self.plan.needs_records:
            return None
        if self.plan.endpoint_class.annotations:
            return None
        return self.model._default_manager.values_list(*self.plan.lookups)

    @cached_property
    def _one_by_pk(self):
        queryset = self._kept_queryset.order_by().filter(pk=_PLACEHOLDER)
        return _Statement(queryset, self.model._meta.pk)

    @cached_property
    def _all_in_order(self):
        return _Statement(
            _in_order(self._kept_queryset, self.plan.endpoint_class.ordering)
        )

    @cached_property
    def _count(self):
        count = models.Func(template="COUNT(*)", output_field=models.IntegerField())
        return _Statement(self.model._default_manager.order_by().values_list(count))

    @cached_property
    def _locked_by_pk(self):
        queryset = self.model._default_manager.order_by().select_for_update()
        queryset = queryset.filter(pk=_PLACEHOLDER).values_list(*self._attribute_names)
        return _Statement(queryset, self.model._meta.pk)

    @cached_property
    def _attribute_names(self):
        return [field.attname for field in self.model._meta.concrete_fields]

    @cached_property
    def _can_keep_order(self):
        """Whether the order is made of names: the SQL of an expression may hold the
        current time zone."""
        order = self.plan.endpoint_class.ordering or ()
        keys = [*order, *self.model._meta.ordering]
        return all(isinstance(key, str) for key in keys)

    # Reading records

    def get_queryset(self, model_endpoint):
        """Return the query for all records of an endpoint, ready to narrow and load."""
        if self._kept_queryset is not None:
            return self._kept_queryset
        request = model_endpoint.request
        queryset = model_endpoint.get_queryset(request)
        if self.plan.endpoint_class.annotations:
            queryset = self.plan.annotations.add(queryset, request)
        if not self.plan.needs_records:
            return queryset.values_list(*self.plan.lookups)
        queryset = queryset.defer(None)
        if self.plan.joins:
            queryset = queryset.select_related(*self.plan.joins)
        return queryset

    def load(self, queryset, model_endpoint):
        """Return the batch of a queryset's records, whoever may get them."""
        if self.plan.needs_records:
            records = list(queryset)
            return _Instances(self.plan, records, queryset.db, model_endpoint)
        return _Statement(queryset).load(queryset.db, model_endpoint)

    def load_visible(self, queryset, model_endpoint):
        """Return the batch of a queryset's records that the user may get."""
        return self.drop_refused(self.load(queryset, model_endpoint))

    def load_one(self, pk, model_endpoint, using=None):
        """Return the batch of one record, whoever may get it, or an empty one."""
        if self._kept_queryset is not None:
            return self._one_by_pk.load(
                using or self._kept_queryset.db, model_endpoint, [pk]
            )
        queryset = self.get_queryset(model_endpoint).filter(pk=pk)[:1]
        if using:
            queryset = queryset.using(using)
        return self.load(queryset, model_endpoint)

    def load_page(self, model_endpoint, conditions, order, start, size):
        """Return the batch of a page of the records that match, and how many match."""
        queryset = self.get_queryset(model_endpoint)
        is_whole = queryset is self._kept_queryset and not conditions
        if is_whole:
            total = self._count.load(queryset.db).column(0)[0]
        else:
            queryset = queryset.filter(*conditions)
            total = queryset.count()
        if start >= total:
            return _Rows([], queryset.db, model_endpoint), total
        limits = (start, start + size)
        is_usual_order = order == self.plan.endpoint_class.ordering
        if is_whole and is_usual_order and self._can_keep_order:
            batch = self._all_in_order.load(queryset.db, model_endpoint, limits=limits)
            return batch, total
        page = _in_order(queryset, order)[slice(*limits)]
        return self.load_visible(page, model_endpoint), total

    def lock_one(self, pk, model_endpoint, using):
        """Lock a record and return it, None if the endpoint does not have it."""
        if self.plan.is_narrowed:
            self._lock_row(pk, using)
            queryset = model_endpoint.get_queryset(model_endpoint.request)
            return queryset.using(using).filter(pk=pk).first()
        for row in self._locked_by_pk.load(using, values=[pk]).rows():
            return self.model.from_db(using, self._attribute_names, row)
        return None

    def _lock_row(self, pk, using):
        """Lock a row by a bare query: one of the project's may have DISTINCT or outer
        joins, which cannot lock."""
        if connections[using].features.has_select_for_update:
            queryset = models.QuerySet(self.model, using=using)
            list(queryset.select_for_update().filter(pk=pk))

    def fetch(self, pks, batch):
        """Return by pk the JSON text of the records that those of a batch refer to."""
        model_endpoint = self.make_endpoint(batch.model_endpoint.request)
        queryset = self.get_queryset(model_endpoint).filter(pk__in=pks)
        referring = batch.model_endpoint.model
        is_near = router.db_for_read(self.model) == router.db_for_read(referring)
        if is_near and not self.plan.is_narrowed:
            queryset = queryset.using(batch.using)
        related = self.load_visible(queryset, model_endpoint)
        return dict(zip(related.pks, self.plan.encode(related), strict=True))

    def load_children(self, keys, batch):
        """Return the batch of the records whose parent key is one of these keys."""
        model_endpoint = self.make_endpoint(batch.model_endpoint.request)
        condition = {f"{self.plan.parent_key.name}__in": keys}
        queryset = self.get_queryset(model_endpoint).filter(**condition)
        queryset = _in_order(queryset, self.plan.endpoint_class.ordering)
        return self.load_visible(queryset, model_endpoint)

    # Records that are there already

    def make_endpoint(self, request):
        """Return an endpoint of the model for a request."""
        if request is None:
            return self.plan.endpoint_class._for_model(self.model, request)
        return _get_access(request).find_endpoint(self.model)

    def make_batch(self, records, using, request):
        """Return the batch of instances."""
        return _Instances(self.plan, records, using, self.make_endpoint(request))

    def adopt(self, records, request=None):
        """Return the batch of instances that the project made; prefetch their joins."""
        for part in self.plan.parts:
            if isinstance(part, _JoinedKey):
                self._convert_keys(records, part.field)
        models.prefetch_related_objects(records, *self.plan.joins)
        using = router.db_for_read(self.model, instance=records[0])
        batch = self.make_batch(records, using, request)
        if self.plan.endpoint_class.annotations:
            self._annotate(batch)
        return batch

    def _annotate(self, batch):
        """Read the annotations of instances that the project made."""
        parts = [part for part in self.plan.parts if isinstance(part, _Annotation)]
        names = [part.name for part in parts]
        queryset = self.model._base_manager.using(batch.using)
        queryset = queryset.filter(pk__in=set(batch.pks) - {None})
        queryset = self.plan.annotations.add(queryset, batch.model_endpoint.request)
        values_by_pk = {}
        for pk, *values in queryset.values_list("pk", *names):
            values_by_pk[pk] = values
        nothing = [None] * len(names)
        rows = [values_by_pk.get(pk, nothing) for pk in batch.pks]
        for part, column in zip(parts, zip(*rows, strict=True), strict=True):
            batch.columns[part.start] = list(column)

    def _convert_keys(self, records, field):
        """Convert keys that the project set as text: a prefetch compares values."""
        for record in records:
            if not field.is_cached(record):
                key = getattr(record, field.attname)
                setattr(record, field.attname, field.to_python(key))

    def drop_refused(self, batch):
        """Return a batch without the records that the user may not get."""
        if not self.plan.asks_can_get or not batch.pks:
            return batch
        model_endpoint = batch.model_endpoint
        records = []
        for record in batch.records:
            if model_endpoint._allows_get(record):
                records.append(record)
        return _Instances(self.plan, records, batch.using, model_endpoint)


# --- Encoders -------------------------------------------------------------------------

#: The custom encoder that is running, and the JSON text of each of its records by id.
#: A to_dict() that calls super().to_dict() gets the record's text from here.
_encoding = contextvars.ContextVar("encoding")


def _encode_records(records, chosen_encoder=None, html_escape=False, request=None):
    """Return instances as dicts, in their order, as the request's user may see them."""
    records_by_model = {}
    for record in records:
        # Not type(): request.user is a lazy object.
        records_by_model.setdefault(record._meta.model, []).append(record)
    # Plans for an encoder of the caller's are not kept: it may live for one call only.
    make_plan = _Plan if chosen_encoder else _get_plan
    encoded = {}
    for model, same in records_by_model.items():
        has_request = request is not None
        plan = _plan_for_form(model, request)
        if plan is None:
            plan = make_plan(model, None, has_request, html_escape, chosen_encoder)
        texts = plan.encode(plan.reader.adopt(same, request))
        for record, text in zip(same, texts, strict=True):
            encoded[id(record)] = _load(text)
    return [encoded[id(record)] for record in records]


def _plan_for_form(model, request):
    """Return the plan for a record that a form saved, None if the usual one says what
    is shown.

    Of a model that neither an endpoint nor an encoder describes, only the pk and the
    form's own fields are shown.
    """
    if request is None or endpoint.has(model) or encoder.find(model):
        return None
    form_names = _get_access(request).form_names
    if form_names is None or _is_user_model(model):
        return None
    form_encoder = IncludeEncoder(form_names)
    return _Plan(model, has_request=True, chosen_encoder=form_encoder, levels=0)


class DefaultEncoder:
    """What a model looks like in JSON; extend `to_dict` to say it in code."""

    #: Whether every text is escaped for HTML.
    html_escape = False

    def to_dict(self, record, html_escape=False):
        """Return what is shown of a record as a dict of plain data."""
        running, texts_by_id = _encoding.get((None, {}))
        if running is self and id(record) in texts_by_id:
            return _load(texts_by_id[id(record)])
        plan = _Plan(record._meta.model, html_escape=html_escape, chosen_encoder=self)
        texts = plan.encode_parts(plan.reader.adopt([record]))
        if not self._is_custom:
            texts = plan.escape(texts)
        return _load(texts[0])

    @property
    def _is_custom(self):
        """Whether code of the project's says what is shown."""
        return type(self).to_dict is not DefaultEncoder.to_dict

    def _select(self, names):
        """Return those of the visible names that are shown."""
        return names


class HTMLEscapeEncoder(DefaultEncoder):
    """Escapes every text for HTML."""

    html_escape = True


class IncludeEncoder(DefaultEncoder):
    """Shows the fields that it lists, and the pk."""

    def __init__(self, include):
        self.include = include

    def _select(self, names):
        return [name for name in names if name in self.include]


class ExcludeEncoder(DefaultEncoder):
    """Shows all fields but those that it lists."""

    def __init__(self, exclude):
        self.exclude = exclude

    def _select(self, names):
        return [name for name in names if name not in self.exclude]


class _Registry:
    """What is registered, by model or form."""

    def __init__(self):
        self._registry = {}

    def unregister(self, model) -> None:
        """Forget what is registered for a model; raise NotRegistered if nothing is."""
        if model not in self._registry:
            raise NotRegistered(f"{_label(model)} is not registered.")
        del self._registry[model]
        _forget_plans()

    def is_registered(self, model) -> bool:
        """Return whether anything is registered for a model."""
        return model in self._registry

    def find(self, model):
        """Return what is registered for a model or for a model that it is a proxy of,
        None if nothing is."""
        concrete_model = model._meta.concrete_model
        for base in model.__mro__:
            if base in self._registry and base._meta.concrete_model is concrete_model:
                return self._registry[base]
        return None

    def _add(self, model, value):
        self._registry[model] = value
        _forget_plans()


class _EncoderRegistry(_Registry):
    """The registry of encoders: what each model looks like, wherever it appears."""

    def register(self, model, encoder) -> None:
        """Let an encoder, or an encoder class, say what a model looks like.

        Raise AlreadyRegistered if the model has one, and ImproperlyConfigured if it is
        no encoder.
        """
        if model in self._registry:
            raise AlreadyRegistered(f"{_label(model)} has an encoder already.")
        self._add(model, self._make(encoder))

    def encode(self, record: Any, encoder=None, html_escape=False) -> Any:
        """Return a record as a dict, a QuerySet or an iterable of records as a list.

        `encoder` replaces the registered one. No user is known here. So a related
        record is shown as its pk if its endpoint overrides `authenticate`, `can_get` or
        `get_queryset`, or does not offer `get`.
        """
        if encoder is not None:
            encoder = self._make(encoder)
        if isinstance(record, models.Model):
            return _encode_records([record], encoder, html_escape)[0]
        items = list(record)
        if all(isinstance(item, models.Model) for item in items):
            return _encode_records(items, encoder, html_escape)
        plain = _to_plain(items, partial(_encode_records, chosen_encoder=encoder))
        return _escape_texts(plain) if html_escape else plain

    def _make(self, encoder):
        """Return an encoder, or make one of its class."""
        encoder_class = encoder if isinstance(encoder, type) else type(encoder)
        if not issubclass(encoder_class, DefaultEncoder):
            message = f"{encoder!r} is no encoder: extend DefaultEncoder.to_dict()."
            raise ImproperlyConfigured(message)
        _refuse_encoder(encoder)
        return encoder() if encoder is encoder_class else encoder


encoder = _EncoderRegistry()


# --- What clients may ask of a list ---------------------------------------------------

#: Lookups that compare with a value as the field itself has it.
_COMPARISONS = {"exact", "gt", "gte", "lt", "lte"}
_DATE_PARTS = {
    "date", "time", "year", "iso_year", "quarter", "month", "week", "week_day",
    "iso_week_day", "day", "hour", "minute", "second",
}  # fmt: skip
#: Lookups that compare with a text, whatever the field has.
_TEXT_LOOKUPS = {
    "iexact", "contains", "icontains", "startswith", "istartswith", "endswith",
    "iendswith",
}  # fmt: skip
#: The lookups that a filter may use. Patterns are not among them, since one can run for
#: ever; nor are the lookups of arrays and ranges, which take no plain text.
_LOOKUPS = {*_COMPARISONS, *_DATE_PARTS, *_TEXT_LOOKUPS, "isnull", "in"}


@functools.lru_cache(maxsize=1024)
def _end_of_path(model, path_name):
    """Return the field at the end of a path such as "author__name__startswith", and
    the lookups after the field."""
    field = None
    opts = model._meta
    names = path_name.split("__")
    while names and opts:
        try:
            field = opts.pk if names[0] == "pk" else opts.get_field(names[0])
        except core_exceptions.FieldDoesNotExist:
            break
        opts = getattr(field.related_model, "_meta", None)
        del names[0]
    return field, names


def _is_reverse(field):
    """Return whether a field of a path leads to the records that refer to one."""
    is_generic = field.one_to_many and not field.auto_created
    return is_generic or (field.auto_created and not field.concrete)


def _is_offered(field, lookups):
    """Return whether a filter may use these lookups on a field."""
    if _is_shown_only(field) or hasattr(field, "base_field"):
        return lookups == ["isnull"]
    if isinstance(field, models.JSONField) and lookups:
        own_lookups = field.get_lookups()
        if lookups[0] in own_lookups:
            return lookups in (["isnull"], ["exact"])
        # The names before the lookup are keys of the JSON. Whether JSON contains other
        # JSON is no question that each database can answer.
        lookups = [lookup for lookup in lookups if lookup in own_lookups]
        if lookups == ["contains"]:
            return False
    if not lookups:
        return True
    return lookups[-1] in _LOOKUPS and _DATE_PARTS.issuperset(lookups[:-1])


def _read_whole_number(sent, default):
    """Return a whole number that was sent, the default for anything else."""
    text = str(sent[0] if isinstance(sent, _FormValue) else sent)
    if not re.fullmatch("-?[0-9]+", text):
        return default
    return min(int(text[:30]), _MAX_SAFE_INTEGER)


def _is_empty_text(sent):
    """Return whether an empty text was sent, with which a form says that it does not
    ask."""
    if isinstance(sent, (_FormValue, _FormList)):
        return sent == [""]
    return sent == ""


def _join_alternatives(name, alternatives):
    """Return conditions with `in` where several say that a name equals a value.

    A database would read the JSON of each row again for each of them.
    """
    joined = []
    # To Python True equals 1: one `in` would lose one of them.
    booleans = []
    values = []
    for alternative in alternatives:
        lookup, value = alternative.children[0]
        if lookup != name:
            joined.append(alternative)
        elif isinstance(value, bool):
            booleans.append(value)
        else:
            values.append(value)
    for equal_values in (booleans, values):
        if equal_values:
            joined.append(Q((f"{name}__in", equal_values)))
    return joined


class _ListOptions:
    """What clients may ask of an endpoint's `list`, and how it is read."""

    def __init__(self, model_endpoint):
        self.model_endpoint = model_endpoint
        self.model = model_endpoint.model

    @cached_property
    def access(self):
        return _get_access(self.model_endpoint.request)

    @cached_property
    def condition_makers(self):
        """The functions that make a condition of a value, by the value's key."""
        makers = {}
        for name, part in self.model_endpoint._plan.tag_parts.items():
            makers[name] = part.match_any
        for entry in self.model_endpoint.list_filter:
            makers[entry] = partial(self.match_any, entry)
        if self.model_endpoint.search_fields:
            makers["search"] = self.search
        return makers

    @cached_property
    def known_keys(self):
        """All keys that may be sent."""
        paging_keys = ["order_by", "items_per_page", "current_page"]
        return [*self.condition_makers, *paging_keys]

    def read(self, sent):
        """Return the order and the conditions that were sent.

        Raise AJAXError 400 with an error for each bad key or value.
        """
        order = self.model_endpoint.ordering
        conditions = []
        errors = {}
        for key, value in sent.items():
            try:
                if key == "order_by":
                    order = self.read_order(value) or order
                    continue
                make_condition = self.find_condition_maker(key)
                if not _is_empty_text(value):
                    conditions.append(make_condition(value))
            except ValidationError as error:
                errors[key] = error.messages
            except _UNREADABLE:
                errors[key] = _invalid_value().messages
            if len(errors) == _MAX_EXPLAINED_KEYS:
                break
        if errors:
            raise _invalid(errors, **self.explain_keys(errors))
        return order, conditions

    def explain_keys(self, errors):
        """Return, as keywords of an AJAXError, which keys a list takes, if one of those
        with errors is unknown; only in DEBUG."""
        if errors.keys() <= set(self.known_keys):
            return {}
        keys = ", ".join(sorted(self.known_keys))
        advice = "To filter or search by more, set list_filter or search_fields."
        return _hint(f"list takes {keys}. {advice}")

    def find_condition_maker(self, key):
        """Return the function that makes a condition of the value of a key."""
        if key in self.condition_makers:
            return self.condition_makers[key]
        message = _add_suggestion(_("Unknown key."), key, self.known_keys)
        raise ValidationError(message)

    def read_order(self, value):
        """Return the names to order by, of a list or a text with commas."""
        texts = value if isinstance(value, list) else [value]
        keys = []
        for text in texts:
            if not isinstance(text, str):
                raise _invalid_value()
            keys += [key.strip() for key in text.split(",") if key.strip()]
        if len(keys) > _MAX_SORT_KEYS:
            raise ValidationError(_("Send at most %s names.") % _MAX_SORT_KEYS)
        sortable = self.model_endpoint.sortable_by
        for key in keys:
            if key.removeprefix("-") not in sortable:
                message = _("Records cannot be ordered by this.")
                raise ValidationError(_add_suggestion(message, key, sortable))
        return keys

    def search(self, value):
        """Return the condition that the admin's search finds a record."""
        text = _only_value(value)
        if not isinstance(text, str) or len(text) > _MAX_FILTER_LENGTH:
            raise _invalid_value()
        if len(text.split()) > _MAX_SEARCH_WORDS:
            raise ValidationError(_("Send at most %s words.") % _MAX_SEARCH_WORDS)
        condition = Q()
        for word in smart_split(text):
            condition &= self.search_word(self.model_endpoint.search_fields, word)
        return condition

    def search_word(self, search_fields, word):
        """Return the condition that one of the fields has a word.

        Behind a relation, only records are searched that the user may see.
        """
        own_fields = []
        related_fields = {}
        for search_field in search_fields:
            path_name = search_field.lstrip("^=@")
            sign = search_field.removesuffix(path_name)
            relation, rest = self.split_at_hiding(path_name)
            if relation:
                related_fields.setdefault(relation, []).append(f"{sign}{rest}")
            else:
                own_fields.append(search_field)
        condition = self.search_own(own_fields, word)
        for relation, fields in related_fields.items():
            related_options = self.make_related(relation)
            related_condition = related_options.search_word(fields, word)
            condition |= self.match_related(relation, related_condition)
        return condition

    def search_own(self, search_fields, text):
        """Return the condition that the admin finds a text in some fields."""
        from django.contrib import admin

        if not search_fields:
            return Q(pk__in=[])
        model_admin = admin.ModelAdmin(self.model, admin.site)
        model_admin.search_fields = search_fields
        queryset, _may_repeat = model_admin.get_search_results(
            self.model_endpoint.request, self.model._base_manager.all(), text
        )
        return Q(pk__in=queryset.values("pk"))

    # Relations of which the endpoints may hide records

    def split_at_hiding(self, path_name):
        """Return the first relation on a path that may hide records from the user, and
        the rest of the path, which begins with a field; return None and the path if
        there is none.

        The pk that a record refers to is shown with the record. So it hides nothing.
        """
        names = path_name.split("__")
        for length in range(1, len(names) + 1):
            relation = "__".join(names[:length])
            rest = "__".join(names[length:])
            field, lookups = _end_of_path(self.model, relation)
            related = getattr(field, "related_model", None)
            if lookups or related is None:
                break
            next_field, _rest = _end_of_path(related, rest)
            looks_inside = next_field is not None and next_field is not related._meta.pk
            if looks_inside or _is_reverse(field):
                if self.access.hides_records(related):
                    if next_field is None:
                        rest = f"pk__{rest}" if rest else "pk"
                    return relation, rest
        return None, path_name

    def make_related(self, relation):
        """Return the options of the model that a relation leads to."""
        field, _lookups = _end_of_path(self.model, relation)
        return _ListOptions(self.access.find_endpoint(field.related_model))

    def match_related(self, relation, condition):
        """Return the condition that a relation leads to a record that matches one, and
        that the user may see."""
        from django.contrib.admin.utils import lookup_spawns_duplicates

        field, _lookups = _end_of_path(self.model, relation)
        related_rows = self.access.get_queryset(field.related_model).filter(condition)
        is_related = Q((f"{relation}__pk__in", related_rows.values("pk")))
        if lookup_spawns_duplicates(self.model._meta, relation):
            queryset = self.model._base_manager.filter(is_related)
            return Q(pk__in=queryset.values("pk"))
        return is_related

    # Filters

    def match_any(self, entry, value):
        """Return the condition that an entry of `list_filter` has one of the values.

        Behind a relation, only records are looked at that the user may see.
        """
        from django.contrib.admin.utils import lookup_spawns_duplicates

        relation, rest = self.split_at_hiding(entry)
        if relation:
            return self.match_hiding(relation, rest, value)
        values = value if isinstance(value, list) else [value]
        if len(values) > _MAX_FILTER_VALUES:
            raise ValidationError(_("Send at most %s values.") % _MAX_FILTER_VALUES)
        name = entry.removesuffix("__in")
        alternatives = [Q(pk__in=[])]
        for item in values:
            alternatives.append(self.match(name, item))
        if len(values) > 1 and self.names_key_of_json(name):
            alternatives = _join_alternatives(name, alternatives)
        condition = Q.create(alternatives, connector=Q.OR)
        queryset = self.make_queryset().filter(condition)
        with contextlib.suppress(core_exceptions.EmptyResultSet):
            # Compile it now: an impossible value, such as a year 10000, raises here.
            _Statement(queryset).compile(queryset.db)
        if lookup_spawns_duplicates(self.model._meta, entry):
            return Q(pk__in=queryset.values("pk"))
        return condition

    def match_hiding(self, relation, rest, value):
        """Return the condition that the rest of an entry, behind a relation that may
        hide records, has one of the values."""
        related_options = self.make_related(relation)
        values = value if isinstance(value, list) else [value]
        pks = [item for item in values if not related_options.means_none(rest, item)]
        condition = related_options.match_any(rest, pks)
        condition = self.match_related(relation, condition)
        if len(pks) < len(values):
            # Whoever refers only to hidden records refers to none.
            condition |= ~self.match_related(relation, Q())
        return condition

    def means_none(self, entry, value):
        """Return whether a value for the pk of this model means that there is no
        record."""
        field, lookups = self.find_end(entry.removesuffix("__in"))
        if field is not self.model._meta.pk:
            return False
        if lookups == ["isnull"]:
            return _read_value(models.BooleanField(), value)
        return not lookups and self.is_null(field, value)

    @cached_property
    def annotations(self):
        return self.model_endpoint._plan.annotations

    def make_queryset(self):
        """Return all rows, with the annotations."""
        queryset = self.model._base_manager.all()
        if self.annotations.given:
            queryset = self.annotations.add(queryset, self.model_endpoint.request)
        return queryset

    def find_end(self, entry):
        """Return the field that an entry names, and the lookups after it."""
        name, *lookups = entry.split("__")
        if name in self.annotations.given:
            request = self.model_endpoint.request
            return self.annotations.find_field(name, request), lookups
        return _end_of_path(self.model, entry)

    def names_key_of_json(self, entry):
        """Return whether an entry names a key of a JSONField, without a lookup."""
        field, lookups = self.find_end(entry)
        if not isinstance(field, models.JSONField) or not lookups:
            return False
        return set(lookups).isdisjoint(field.get_lookups())

    def match(self, entry, value):
        """Return the condition that an entry has one value."""
        field, lookups = self.find_end(entry)
        if lookups == ["isnull"]:
            return Q((entry, _read_value(models.BooleanField(), value)))
        if not lookups and self.is_null(field, value):
            return Q((f"{entry}__isnull", True))
        if field.is_relation and lookups in ([], ["exact"]):
            path_name = entry.removesuffix("__exact")
            return Q((f"{path_name}__pk", _read_pk(field.related_model, value)))
        if not lookups or len(lookups) == 1 and lookups[0] in _COMPARISONS:
            value = _read_value(field, value)
        elif not isinstance(value, (str, int, float)):
            raise _invalid_value()
        elif not _is_offered(field, lookups):
            raise _invalid_value()
        elif lookups[-1] in _TEXT_LOOKUPS:
            value = _as_form_text(value)
        if isinstance(value, str) and len(value) > _MAX_FILTER_LENGTH:
            message = _("Send at most %s characters.")
            raise ValidationError(message % _MAX_FILTER_LENGTH)
        return Q((entry, value))

    def is_null(self, field, value):
        """Return whether a value means NULL: a form says it with a text."""
        if value is None:
            return True
        return value == "null" and not isinstance(field, _TEXT_FIELDS)

    def describe(self):
        """Return the schemas of all that may be sent, by key."""
        properties = {}
        for name in self.model_endpoint._plan.tag_parts:
            properties[name] = _or_several({"type": ["string"]})
        for entry in self.model_endpoint.list_filter:
            field, lookups = self.find_end(entry.removesuffix("__in"))
            properties[entry] = _or_several(_describe_filter(field, lookups))
            _add_help_text(properties[entry], field)
        if self.model_endpoint.search_fields:
            names = [name.lstrip("^=@") for name in self.model_endpoint.search_fields]
            description = f"Words to find in {', '.join(names)}."
            properties["search"] = {**_TEXT, "description": description}
        if self.model_endpoint.sortable_by:
            names = ", ".join(self.model_endpoint.sortable_by)
            description = f"{names}. A minus sign before a name reverses its order."
            properties["order_by"] = {
                **_or_several({"type": ["string"]}),
                "description": description,
                "x-ajax": {"sortable_by": list(self.model_endpoint.sortable_by)},
            }
        properties["items_per_page"] = _NUMBER
        properties["current_page"] = _NUMBER
        return properties


# --- Decorators -----------------------------------------------------------------------


def _login_url():
    """Return the address of the login page as keywords of an AJAXError."""
    try:
        return {"login_url": resolve_url(settings.LOGIN_URL)}
    except (NoReverseMatch, TypeError):
        # A project need not have a login page.
        return _hint("LOGIN_URL names no page of this site.")


def _make_login_error(**extra):
    """Return the AJAXError 403 for a visitor, with the address of the login page."""
    return AJAXError(403, _("Please log in."), **{**extra, **_login_url()})


def _is_logged_in(request):
    """Return whether a request has a user who is logged in.

    Without Django's AuthenticationMiddleware, it has no user at all.
    """
    user = getattr(request, "user", None)
    return user is not None and user.is_authenticated


def _require_login(request):
    if not _is_logged_in(request):
        raise _make_login_error()


def _refuse_visitor(request, *args):
    """Return the JSON response for a visitor, None for a user who is logged in.

    Of a method, the second argument is the request.
    """
    if args and not isinstance(request, HttpRequest):
        request = args[0]
    try:
        _require_login(request)
    except Exception as error:
        return _error_response(request, error)
    return None


def login_required(view: Callable) -> Callable:
    """Let only logged-in users call an endpoint or any other view, sync or async.

    Answer anybody else with a 403 as JSON, which has the address of the login page.
    """
    if iscoroutinefunction(view):

        @functools.wraps(view)
        async def guarded_view(request, *args, **kwargs):
            refusal = await sync_to_async(_refuse_visitor)(request, *args)
            if refusal is not None:
                return refusal
            return await view(request, *args, **kwargs)

    else:

        @functools.wraps(view)
        def guarded_view(request, *args, **kwargs):
            refusal = _refuse_visitor(request, *args)
            if refusal is not None:
                return refusal
            return view(request, *args, **kwargs)

    guarded_view.wants_login = True
    return guarded_view


def json_response(view: Callable) -> Callable:
    """Give any view the replies of an endpoint: JSON for what it returns and raises."""

    def answer(request, *args, **kwargs):
        try:
            with contextlib.ExitStack() as stack:
                locks = request.method not in ("GET", "HEAD")
                _enter_atomic_requests(stack, json_view, locks)
                result = _run_view(view, request, *args, **kwargs)
                return _success_response(result, request)
        except Exception as error:
            return _error_response(request, error)

    if iscoroutinefunction(view):
        # functools.wraps() copies the mark of a coroutine function, so be one.
        @functools.wraps(view)
        async def json_view(request, *args, **kwargs):
            return await sync_to_async(answer)(request, *args, **kwargs)

    else:
        json_view = functools.wraps(view)(answer)

    exempt_aliases = getattr(view, "_non_atomic_requests", ())
    json_view._non_atomic_requests = _EveryAlias(exempt_aliases)
    return json_view


def _run_view(view, request, *args, **kwargs):
    """Return what a view returns; run an async one with its user loaded already."""
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


# --- Hooks ----------------------------------------------------------------------------


def _read_signature(function, **options):
    """Return the signature of a function.

    Since Python 3.14, annotations are evaluated when they are asked for. Leave names as
    they are that are imported for type checkers only.
    """
    if sys.version_info >= (3, 14):
        import annotationlib

        options["annotation_format"] = annotationlib.Format.FORWARDREF
    return inspect.signature(function, **options)


def _find_signature(function):
    """Return the signature of a function, of a decorated one that of the inner one.

    A method made by async_to_sync() is a partial function: its inner one takes `self`.
    """
    signature = _read_signature(function)
    if isinstance(function, functools.partial) and hasattr(function, "__wrapped__"):
        parameters = list(signature.parameters.values())
        signature = signature.replace(parameters=parameters[1:])
    return signature


@functools.lru_cache(maxsize=256)
def _count_places(function):
    """Return how many arguments a function takes by position."""
    places = 0
    for parameter in _find_signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return sys.maxsize
        if parameter.kind < parameter.VAR_POSITIONAL:
            places += 1
    return places


@functools.lru_cache(maxsize=256)
def _takes_keyword(function, name):
    """Return whether a function takes a keyword argument of a name."""
    for parameter in _find_signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD or parameter.name == name:
            return True
    return False


def _fit_arguments(hook, arguments, keywords):
    """Return the arguments that a hook takes by position, and those by keyword.

    The hooks of the old package took fewer. A hook that takes `modified` as a keyword
    gets it so.
    """
    function = getattr(hook, "__func__", hook)
    if keywords and not _takes_keyword(function, "modified"):
        arguments = (*arguments, keywords["modified"])
        keywords = {}
    places = _count_places(function)
    if function is not hook:
        places -= 1  # The place of `self`.
    return arguments[:places], keywords


def _call_hook(hook, *arguments, **keywords):
    """Call a hook with as many arguments as it takes."""
    arguments, keywords = _fit_arguments(hook, arguments, keywords)
    return hook(*arguments, **keywords)


def _is_yes(owner, hook, answer):
    """Return whether the answer of a hook, a method of `owner`, is yes.

    Raise TypeError for an answer that is always true: a coroutine, a generator, a
    method that was not called, an error that was not raised, or a response.
    """
    if isinstance(answer, (bool, type(None))):
        return bool(answer)
    is_generator = inspect.isgenerator(answer) or inspect.isasyncgen(answer)
    is_refusal = isinstance(answer, (Exception, HttpResponseBase))
    is_uncalled = inspect.isawaitable(answer) or callable(answer)
    if is_generator or is_refusal or is_uncalled:
        place = f"{type(owner).__name__}.{hook}"
        kind = type(answer).__name__
        raise TypeError(f"{place} returned a {kind} instead of True or False.")
    return bool(answer)


def _change(hook, *arguments):
    """Call a hook that changes a record; raise an AJAXError that it returns."""
    answer = hook(*arguments)
    if isinstance(answer, AJAXError):
        raise answer


#: The packages whose decorators pass all arguments of a view on.
_PACKAGES_OF_GUARDS = ("django", "asgiref", "contextlib")


def _takes_one(function, *before):
    """Return whether something can be called with one argument, after those before."""
    try:
        _read_signature(function, follow_wrapped=False).bind(*before, None)
    except (TypeError, ValueError):
        return False
    return True


def _takes_request(function, *before):
    """Return whether a function can be called with a request, named so, and no more."""
    names = list(_read_signature(function).parameters)
    position = len(before)
    if names[position : position + 1] != ["request"]:
        return False
    return _takes_one(_skip_guards(function), *before)


def _skip_guards(function):
    """Return what is below the decorators that pass all arguments on: those of this
    file, of Django, and of the libraries that they are made with.

    A decorator of the project's may itself pass what its function wants beside request.
    """
    while inspect.isfunction(function) and hasattr(function, "__wrapped__"):
        module_name = function.__globals__["__name__"]
        package = module_name.partition(".")[0]
        if module_name != __name__ and package not in _PACKAGES_OF_GUARDS:
            break
        function = function.__wrapped__
    return function


def _wants_more(view):
    """Return whether a function or an object of an endpoints.py cannot be called with
    just a request."""
    call = _skip_guards(view)
    before = ()
    if not inspect.isfunction(call) and inspect.isfunction(type(call).__call__):
        call, before = type(call).__call__, (call,)
    is_validated = hasattr(call, "_parameters") or hasattr(view, "_parameters")
    return not is_validated and not _takes_one(_skip_guards(call), *before)


def _is_operation(value):
    """Return whether an attribute of an endpoint class has the shape of an operation: a
    method of which the only required argument is called `request`."""
    if not inspect.isfunction(value):
        return False
    if hasattr(value, "_parameters"):
        return True
    return _takes_request(inspect.unwrap(value), "self")


# --- Checked parameters ---------------------------------------------------------------


class _BadParameter(Exception):
    """A parameter that cannot be read; the text says what it does, as a predicate."""


class _Input:
    """One kind of parameter: how what was sent is read, checked and described."""

    #: The model of the records that are read.
    model = None
    validators = ()

    def is_empty(self, sent):
        """Return whether an empty text was sent, which means that nothing was."""
        return _only_value(sent) == ""

    def is_null(self, sent):
        """Return whether null was sent; a form sends it as a text."""
        return sent is None or (isinstance(sent, _FormValue) and sent == ["null"])

    def read(self, sent, request):
        """Return the value for the function; raise ValidationError for a bad one."""

    def read_each(self, values, request):
        """Return the value for each item of a list."""
        return [self.read(value, request) for value in values]

    def describe(self):
        """Return the schema of what is sent."""

    def validate(self, value):
        for validator in self.validators:
            validator(value)


class _FieldInput(_Input):
    """A plain value, which a model field reads as it reads its column."""

    def __init__(self, field):
        self.field = field

    def read(self, sent, request):
        value = self.field.clean(_read_value(self.field, sent), None)
        self.validate(value)
        return value

    def describe(self):
        return _describe_field(self.field, is_sent=True)


class _TextInput(_FieldInput):
    """A text. It is taken as it is: a password may begin with a space."""

    def is_empty(self, sent):
        return False

    def is_null(self, sent):
        return sent is None

    def read(self, sent, request):
        value = _read_single(self.field, sent)
        try:
            text = _as_text(value)
        except _UNREADABLE:
            raise _invalid_value(self.field, value) from None
        self.field.clean(text, None)
        self.validate(text)
        return text


class _ChoiceInput(_Input):
    """A member of an Enum, read by its value, or a value of a Literal."""

    def __init__(self, members):
        #: By value, what the function gets.
        self.members = members
        value_classes = {type(value) for value in members}
        if value_classes == {str}:
            input_class, field_class = _TextInput, models.CharField
        elif value_classes == {int}:
            input_class, field_class = _FieldInput, models.IntegerField
        else:
            raise _BadParameter(
                "takes values that are neither all texts nor all integers"
            )
        choices = []
        for value, member in members.items():
            choices.append((value, getattr(member, "label", str(value))))
        self.input = input_class(field_class(choices=choices, blank="" in members))

    def is_empty(self, sent):
        return _only_value(sent) == "" and "" not in self.members

    def read(self, sent, request):
        member = self.members[self.input.read(sent, request)]
        self.validate(member)
        return member

    def describe(self):
        return self.input.describe()


class _JSONInput(_Input):
    """Any JSON, as it is; a form sends it as a text."""

    field = models.JSONField()

    def is_empty(self, sent):
        return isinstance(sent, _FormValue) and sent == [""]

    def read(self, sent, request):
        value = _read_value(self.field, sent)
        self.validate(value)
        return value

    def describe(self):
        return {}


class _ObjectInput(_JSONInput):
    """A JSON object. An empty text is none, in JSON either."""

    is_empty = _Input.is_empty

    def read(self, sent, request):
        value = super().read(sent, request)
        if not isinstance(value, dict):
            raise ValidationError(_("Send a JSON object."))
        return value

    def describe(self):
        return {"type": "object"}


class _FileInput(_Input):
    """An uploaded file."""

    def read(self, sent, request):
        file = _only_value(sent)
        if not isinstance(file, UploadedFile):
            raise ValidationError(forms.FileField.default_error_messages["invalid"])
        self.validate(file)
        return file

    def describe(self):
        return {"type": ["string"], "format": "binary"}


class _RecordInput(_Input):
    """A record, sent as its pk: one for which `get` would answer the user."""

    def __init__(self, model):
        self.model = model

    def read(self, sent, request):
        value = _only_value(sent)
        if isinstance(value, list):
            raise ValidationError(_("This key takes one value."))
        [record] = self.read_each([value], request)
        return record

    def read_each(self, values, request):
        pks = [_read_pk(self.model, value) for value in values]
        visible = _get_access(request).find_visible(self.model, pks)
        records = []
        for pk in pks:
            if pk not in visible:
                raise _no_record(self.model, pk)
            self.validate(visible[pk])
            records.append(visible[pk])
        return records

    def describe(self):
        schema = _describe_field(_root_key(self.model))
        model_path = self.model._meta.label_lower.replace(".", "/")
        return {**schema, "x-ajax": {"pk_of": model_path}}


class _ListInput(_Input):
    """A list, each item of which is read by the same input."""

    def __init__(self, item_input):
        self.item_input = item_input
        self.model = item_input.model

    def is_empty(self, sent):
        return sent == ""

    def read(self, sent, request):
        values = _read_several(sent)
        if len(values) > _MAX_MEMBERS:
            raise ValidationError(_("Send at most %s values.") % _MAX_MEMBERS)
        items = self.item_input.read_each(values, request)
        self.validate(items)
        return items

    def describe(self):
        return _describe_list(self.item_input.describe())


#: The model fields that read plain values, by annotation.
_FIELDS_BY_ANNOTATION = {
    str: partial(models.CharField, blank=True),
    int: models.IntegerField,
    float: models.FloatField,
    # int() of Decimal("1E+1000000") would not end.
    decimal.Decimal: partial(models.DecimalField, max_digits=1000),
    bool: models.BooleanField,
    datetime.date: models.DateField,
    datetime.datetime: models.DateTimeField,
    datetime.time: models.TimeField,
    datetime.timedelta: models.DurationField,
    uuid.UUID: models.UUIDField,
}


def _evaluate(annotation, function):
    """Return an annotation of a function; one that is a text, as Python evaluates it.

    With `from __future__ import annotations` all are texts.
    """
    if not isinstance(annotation, str):
        return annotation
    holder = types.SimpleNamespace(__annotations__={"value": annotation})
    names = function.__globals__
    try:
        return typing.get_type_hints(holder, names, include_extras=True)["value"]
    except Exception as error:
        raise _BadParameter(
            f"is annotated with {annotation!r}, which cannot be evaluated: {error}. "
            "Import or define its names above the function, for Python too, not just "
            "under TYPE_CHECKING"
        ) from None


def _make_input(annotation, extras):
    """Return the input for an annotation; raise _BadParameter for an unknown one.

    `extras` are the validators, and perhaps the model field, that Annotated adds.
    """
    fields = [extra for extra in extras if isinstance(extra, models.Field)]
    validators = [extra for extra in extras if not isinstance(extra, models.Field)]
    for validator in validators:
        if isinstance(validator, type) or not callable(validator):
            raise _BadParameter(
                f"has {validator!r}, which is no validator and no field"
            )
    if fields:
        made = _make_field_input(annotation, fields)
    else:
        made = _make_plain_input(annotation)
    made.validators = validators
    return made


def _make_field_input(annotation, fields):
    """Return the input for an annotation with a model field of the project's."""
    is_plain = isinstance(annotation, type) and annotation in _FIELDS_BY_ANNOTATION
    if len(fields) > 1 or not is_plain:
        raise _BadParameter("may have one model field, for one plain type")
    input_class = _TextInput if annotation is str else _FieldInput
    return input_class(fields[0])


def _make_plain_input(annotation):
    """Return the input for an annotation without validators or a field."""
    if isinstance(annotation, (str, typing.ForwardRef)):
        name = getattr(annotation, "__forward_arg__", annotation)
        raise _BadParameter(
            f"is annotated with {name!r}, which is not evaluated. Write it without "
            "quotes, and import or define it above the function, for Python too, not "
            "just under TYPE_CHECKING"
        )
    origin = typing.get_origin(annotation)
    if origin is list:
        [item_annotation] = typing.get_args(annotation)
        return _make_list_input(item_annotation)
    if origin is typing.Literal:
        values = typing.get_args(annotation)
        return _ChoiceInput({value: value for value in values})
    if annotation is Any:
        return _JSONInput()
    if annotation is dict:
        return _ObjectInput()
    if isinstance(annotation, type):
        if annotation in _FIELDS_BY_ANNOTATION:
            input_class = _TextInput if annotation is str else _FieldInput
            return input_class(_FIELDS_BY_ANNOTATION[annotation]())
        if issubclass(annotation, enum.Enum):
            return _ChoiceInput({member.value: member for member in annotation})
        if issubclass(annotation, UploadedFile):
            return _FileInput()
        if issubclass(annotation, models.Model):
            return _RecordInput(annotation)
    raise _BadParameter(f"is annotated with {annotation!r}, which ajax.py cannot read")


def _make_list_input(annotation):
    annotation, extras, is_nullable = _unwrap(annotation)
    item_input = _make_input(annotation, extras)
    if is_nullable or not isinstance(
        item_input, (_FieldInput, _ChoiceInput, _RecordInput)
    ):
        raise _BadParameter("is a list of what cannot be read: write list[int]")
    return _ListInput(item_input)


def _unwrap(annotation):
    """Take an annotation apart: return it without Annotated and None, what Annotated
    adds, and whether it may be None."""
    extras = []
    is_nullable = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation, *more = typing.get_args(annotation)
            extras.extend(more)
        elif origin in (typing.Union, types.UnionType):
            members = typing.get_args(annotation)
            annotations = [member for member in members if member is not type(None)]
            if len(annotations) != 1:
                raise _BadParameter("is a union of several types")
            [annotation] = annotations
            is_nullable = True
        else:
            return annotation, extras, is_nullable


class _Parameter:
    """A parameter of a validated function."""

    def __init__(self, parameter, function):
        self.name = parameter.name
        if parameter.annotation is parameter.empty:
            raise _BadParameter("has no annotation, such as int or str")
        annotation = _evaluate(parameter.annotation, function)
        annotation, extras, self.is_nullable = _unwrap(annotation)
        self.input = _make_input(annotation, extras)
        self.has_default = parameter.default is not parameter.empty

    @property
    def is_required(self):
        return not (self.has_default or self.is_nullable)

    def read_into(self, values, sent, request):
        """Read the parameter's key, if it was sent, into the values for the function;
        raise ValidationError for a bad or missing one."""
        if self.name in sent and not self.input.is_empty(sent[self.name]):
            values[self.name] = self.read(sent[self.name], request)
        elif self.is_required:
            raise ValidationError(forms.Field.default_error_messages["required"])
        elif not self.has_default:
            values[self.name] = None

    def read(self, sent, request):
        if self.input.is_null(sent):
            if self.is_nullable:
                return None
            raise ValidationError(models.Field.default_error_messages["null"])
        return self.input.read(sent, request)

    def describe(self):
        schema = self.input.describe()
        if self.is_nullable:
            _allow_null(schema)
        return schema


class _Parameters:
    """The parameters that a validated function takes after `request`."""

    def __init__(self, function):
        self.function = function
        self.takes_record = False
        self.by_name = {}
        parameters = list(_read_signature(function).parameters.values())
        self.is_method = bool(parameters) and parameters[0].name != "request"
        if self.is_method:
            del parameters[0]
        if not parameters or parameters[0].name != "request":
            raise ImproperlyConfigured(
                f"{_full_name(function)} must take request first."
            )
        del parameters[0]
        if self.is_method and parameters and parameters[0].name == "record":
            self.takes_record = True
            del parameters[0]
        for parameter in parameters:
            self.add(function, parameter)

    def add(self, function, parameter):
        """Add a parameter; raise ImproperlyConfigured for one that cannot be read."""
        try:
            if parameter.kind not in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            ):
                raise _BadParameter("cannot be passed by its name: remove *, ** or /")
            if parameter.name.startswith("_"):
                if parameter.default is parameter.empty:
                    raise _BadParameter("is never read, so it must have a default")
                return
            is_bare = parameter.annotation is parameter.empty
            if parameter.name == "record" and is_bare:
                raise _BadParameter("stands directly after request, in an operation")
            self.by_name[parameter.name] = _Parameter(parameter, function)
        except _BadParameter as error:
            message = (
                f"{_full_name(function)}: the parameter {parameter.name!r} {error}."
            )
            raise ImproperlyConfigured(message) from None

    def read(self, request):
        """Return by name the values that were sent; raise AJAXError 400 with an error
        for each bad, missing or unknown key."""
        _check_content_type(request)
        sent = _read_keys(request)
        values = {}
        errors = _explain_unknown(sent, self.by_name, self.by_name)
        for name, parameter in self.by_name.items():
            try:
                parameter.read_into(values, sent, request)
            except ValidationError as error:
                errors[name] = error.messages
        if errors:
            raise _invalid(errors)
        return values

    def describe(self):
        """Return the schemas of the parameters, and the names of those required."""
        schemas = {}
        required = []
        for name, parameter in self.by_name.items():
            schemas[name] = parameter.describe()
            if parameter.is_required:
                required.append(name)
        return schemas, required

    def find_unserved(self):
        """Return the models of records that no endpoint serves."""
        served = []
        for parameter in self.by_name.values():
            model = parameter.input.model
            if model is not None and not endpoint.has(model):
                served.append(model)
        return served


def _full_name(function):
    if inspect.isfunction(function):
        return f"{function.__module__}.{function.__qualname__}"
    return repr(function)


def validated(function: Callable | None = None, **options) -> Callable:
    """Let an endpoint take parameters after `request`, which are read from the body.

    It decorates a function, the `__call__` of a BaseEndpoint, or an operation; other
    decorators stand above it. Each parameter is read by its annotation and passed by
    keyword. In an operation, a parameter `record` directly after `request` is the
    record of the path: it is locked, and the operation is one transaction.

    A bad body is answered with AJAXError 400, and the function does not run. Raise
    ImproperlyConfigured for a parameter that cannot be read.
    """
    if function is None or options:
        raise ImproperlyConfigured("Write @ajax.validated without parentheses.")
    if hasattr(function, "__wrapped__") or not inspect.isfunction(function):
        advice = "write @ajax.validated directly above the function."
        raise ImproperlyConfigured(f"{_full_name(function)}: {advice}")
    parameters = _Parameters(function)

    @functools.wraps(function)
    def validated_function(*arguments):
        values = parameters.read(arguments[-1])
        if parameters.takes_record:
            arguments = (*arguments, arguments[0].record)
        return function(*arguments, **values)

    validated_function._parameters = parameters
    return validated_function


# --- Transactions ---------------------------------------------------------------------


@contextlib.contextmanager
def _transaction(using, locks=True):
    """Run a block as one transaction.

    If it `locks`, SQLite does BEGIN IMMEDIATE. Other writers wait then, instead of
    failing with "database is locked" after a read.
    """
    connection = connections[using]
    connection.ensure_connection()
    usual_mode = vars(connection).get("transaction_mode")
    if locks:
        connection.transaction_mode = "IMMEDIATE"  # Only SQLite looks at it.
    try:
        with transaction.atomic(using=using):
            connection.transaction_mode = usual_mode
            yield
    finally:
        connection.transaction_mode = usual_mode


class _EveryAlias(set):
    """A set that seems to contain every alias, so that Django opens no transaction of
    its own around a view. Its items are the aliases that the view exempts from ours."""

    def __contains__(self, alias):
        return True


def _enter_atomic_requests(stack, view, locks=True):
    """Open the transactions that ATOMIC_REQUESTS wants around a view.

    Opened here, they are rolled back for an error reply, and an error at their commit
    becomes an error reply.
    """
    exempt_aliases = list(getattr(view, "_non_atomic_requests", ()))
    for alias, options in connections.settings.items():
        if options["ATOMIC_REQUESTS"] and alias not in exempt_aliases:
            stack.enter_context(_transaction(alias, locks))


# --- Writing a record -----------------------------------------------------------------


def _copy_record(record):
    """Return a copy of a record, with copies of what may change in place."""
    copied = copy.copy(record)
    for name, value in vars(copied).items():
        if isinstance(value, (bytearray, dict, list, set)):
            vars(copied)[name] = copy.deepcopy(value)
        elif isinstance(value, FieldFile):
            # Of a name, its attribute makes a file of its own when it is read.
            vars(copied)[name] = value.name
    return copied


def _is_same(field, stored, modified):
    """Return whether two instances have the same value, as the field stores it."""
    if vars(stored).get(field.attname) is vars(modified).get(field.attname):
        return True
    # Not those of vars(): some attributes replace them by objects when they are read.
    before = getattr(stored, field.attname)
    after = getattr(modified, field.attname)
    if isinstance(after, File) and not getattr(after, "_committed", False):
        return False  # A new upload, whatever its name.
    if isinstance(field, models.JSONField):
        return _is_same_json(before, after)
    return before == after


def _can_set_again(record, field):
    """Set a column to its own value, as validation does; return whether that works.

    The attributes of django-fsm's protected fields refuse it, for instance.
    """
    if field.attname in vars(record):  # Else the column is deferred.
        try:
            setattr(record, field.attname, getattr(record, field.attname))
        except AttributeError:
            return False
    return True


def _force_insert(record):
    """Make the first save() of a new record an INSERT, so that a pk that was sent never
    overwrites a record.

    A model's own save() may not take force_insert=True, which would do so too.
    """

    def insert(**options):
        del record.save_base
        options["force_insert"] = (models.Model,)
        record.save_base(**options)

    if record._state.adding and record.pk is not None:
        record.save_base = insert


def _say_as_forms(error):
    """Let the errors of a model say what Django's forms say."""
    usual = models.Field.default_error_messages["invalid_choice"]
    for errors in error.update_error_dict({}).values():
        for field_error in errors:
            if field_error.message == usual:
                message = _form_message(forms.ChoiceField, "invalid_choice")
                field_error.message = message


#: SQLite keeps decimals as floating-point numbers, of which Django reads these digits.
_SQLITE_DECIMALS = decimal.Context(prec=15)
#: The days of a duration that a column of microseconds holds.
_MAX_DAYS = 2**63 // (24 * 60 * 60 * 1_000_000)


@functools.cache
def _find_value_checks(model):
    """Return the columns of a model that have a check, each with it."""
    checks = {}
    for field in model._meta.concrete_fields:
        for field_class, check in _VALUE_CHECKS.items():
            if isinstance(field, field_class):
                checks[field] = check
    return checks


def _check_value(field, value, using):
    """Raise ValidationError for a value that must not be stored, though Django's own
    validation lets it pass."""
    check = _find_value_checks(field.model).get(field)
    if check and value is not None:
        check(field, value, connections[using])


def _check_decimal(field, value, connection):
    """Raise ValidationError for a decimal that SQLite would round."""
    if connection.vendor != "sqlite":
        return
    stored = field.get_db_prep_save(value, connection)
    if isinstance(stored, decimal.Decimal):  # It may also be an expression.
        kept = _SQLITE_DECIMALS.create_decimal_from_float(float(stored))
        if kept != stored:
            message = DecimalValidator.messages["max_digits"]
            raise ValidationError(message, params={"max": _SQLITE_DECIMALS.prec})


def _check_duration(field, value, connection):
    """Raise ValidationError for a duration beyond a column of microseconds."""
    if connection.features.has_native_duration_field:
        return
    if isinstance(value, datetime.timedelta) and abs(value.days) >= _MAX_DAYS:
        message = _form_message(forms.DurationField, "overflow")
        message = message.format(min_days=-_MAX_DAYS + 1, max_days=_MAX_DAYS - 1)
        raise ValidationError(message)


def _check_integer(field, value, connection):
    """Raise ValidationError for an integer that JavaScript would round, if the field is
    not made for big ones."""
    if isinstance(field, models.BigIntegerField) or not isinstance(value, int):
        return
    MaxValueValidator(_MAX_SAFE_INTEGER)(value)
    MinValueValidator(-_MAX_SAFE_INTEGER)(value)


def _check_length(field, value, connection):
    """Raise ValidationError for a text that is too long.

    Only forms look at the max_length of a TextField.
    """
    if field.max_length is not None and isinstance(value, str):
        MaxLengthValidator(field.max_length)(value)


#: By class of field, what raises ValidationError for a value that would not come back,
#: or that Django's forms would refuse.
_VALUE_CHECKS = {
    models.DecimalField: _check_decimal,
    models.DurationField: _check_duration,
    models.IntegerField: _check_integer,
    models.TextField: _check_length,
}


# Files. A storage takes no part in transactions.


@contextlib.contextmanager
def _storing_uploads(request, record, find_name=str):
    """Remember the files that a block stores for a record.

    Raise AJAXError 400 for a file name that the storage cannot take, with an error
    under the name that `find_name` gives for the field's.
    """
    uploads = _find_uploads(record)
    request._ajax_uploads = [*getattr(request, "_ajax_uploads", ()), *uploads]
    try:
        yield
    except (core_exceptions.SuspiciousFileOperation, OSError) as error:
        is_name_bad = getattr(error, "errno", errno.ENAMETOOLONG) == errno.ENAMETOOLONG
        for file in uploads:
            # The fields are saved in order.
            if is_name_bad and not file._committed:
                message = _("Give the file another name.")
                raise _invalid({find_name(file.field.name): [message]}) from error
        raise


def _find_uploads(record):
    """Return the files of a record that its save() will store."""
    uploads = []
    for field in _find_file_fields(record._meta.model):
        file = getattr(record, field.attname)
        if file and not file._committed:
            uploads.append(file)
    return uploads


@functools.cache
def _find_file_fields(model):
    """Return the columns of a model that hold files."""
    fields = model._meta.concrete_fields
    return [field for field in fields if isinstance(field, models.FileField)]


@contextlib.contextmanager
def _removing_uploads(request):
    """Delete the files that a block stored for a write, if the block fails."""
    try:
        yield
    except BaseException:
        _remove_uploads(request)
        raise


def _remove_uploads(request):
    """Delete the files that were stored for a write, unless a row refers to them.

    The write may have been committed before the failure, and a storage may have
    replaced a file of another record.
    """
    uploads = getattr(request, "_ajax_uploads", [])
    for file in list(uploads):
        model = file.instance._meta.model
        queryset = model._base_manager.using(router.db_for_write(model))
        queryset = queryset.filter(**{file.field.name: file.name})
        # In a broken transaction rows cannot be read: `dispatch` tries it again later.
        with contextlib.suppress(DatabaseError, InterfaceError):
            if file._committed and not queryset.exists():
                _delete_upload(file)
            uploads.remove(file)


def _delete_upload(file):
    """Delete a file. If its storage cannot, the log says so: the reply is about what
    failed before."""
    try:
        file.storage.delete(file.name)
    except Exception:
        logger = logging.getLogger("django.request")
        logger.exception("The file of a failed write is left: %s", file.name)


class _Draft:
    """A write in progress: what was sent is read into a record, validated and saved.

    `stored` is the record as it is stored, None for a new record. The errors of keys
    wait in `errors` until the user is known to be allowed to write. The values of
    many-to-many relations and tags wait in `relations` until the record is saved.
    """

    def __init__(self, model_endpoint):
        self.model_endpoint = model_endpoint
        self.plan = model_endpoint._plan
        self.request = model_endpoint.request
        self.sent = _read_keys(model_endpoint.request)
        #: The keys that were sent and are not written.
        self.unwritten = []
        self.errors = {}
        self.relations = {}
        #: By the part of a foreign key, the value that was found to refer to a record.
        self.checked_keys = {}

    def read_into(self, record, stored=None):
        """Read what was sent into a record."""
        self.record = record
        self.stored = stored
        writable = self.plan.writable if stored is None else self.plan.updatable
        for key, value in self.find_sent_in_order():
            try:
                if key not in writable:
                    self.unwritten.append(key)
                elif stored is None or not self.shows(writable[key], value):
                    writable[key].read(self, value)
            except ValidationError as error:
                self.errors[key] = error.messages
        if stored is None:
            self.require_relations()
        # A custom encoder may show any key.
        if not self.plan.is_custom:
            self.refuse_unknown(writable)

    def require_relations(self):
        """Hold an error for each relation without a value that has to have one."""
        for name, part in self.plan.writable.items():
            is_required = part.field.many_to_many and not part.field.blank
            if is_required and name not in self.sent:
                self.errors[name] = _required().messages

    def refuse_unknown(self, writable):
        """Hold an error for each key that is not shown. An error may suggest one of the
        keys that are `writable`."""
        known = self.plan.known_names
        if not known.issuperset(self.sent):
            self.errors.update(_explain_unknown(self.sent, known, writable))

    # What is stored and shown already

    @cached_property
    def batch(self):
        """The batch of the stored record."""
        using = self.model_endpoint._using
        return self.plan.reader.make_batch([self.stored], using, self.request)

    @cached_property
    def shown(self):
        """What is shown of the stored record, where code of the project's says it."""
        return _encode_records([self.stored], request=self.request)[0]

    def shows(self, part, sent):
        """Return whether what was sent for a part is what `get` shows of the stored
        record."""
        is_form = isinstance(sent, _FormValue)
        if isinstance(part, _JSONColumn) and is_form:
            return False  # A form's 1 is a number. The stored value may be "1".
        if self.plan.is_custom or self.plan.is_escaped:
            return part.name in self.shown and _equals_shown(
                self.shown[part.name], sent
            )
        if not part.compares_text:
            return False
        if _equals_shown(part.show_stored(self), sent):
            return True
        return is_form and self.shows_moment(part, _only_value(sent))

    def shows_moment(self, part, text):
        """Return whether a text is the stored date-time in the current zone.

        Such a text is ambiguous when clocks go back. Reading it would fail then.
        """
        stored = getattr(self.stored, part.field.attname)
        is_aware = isinstance(stored, datetime.datetime) and timezone.is_aware(stored)
        if not is_aware or not isinstance(text, str):
            return False
        with contextlib.suppress(OverflowError, ValueError):
            return parse_datetime(text) == timezone.make_naive(stored)
        return False

    def copy_stored(self):
        """Return a draft of a copy of the stored record."""
        copied = copy.copy(self)
        copied.record = _copy_record(self.stored)
        return copied

    def find_ignored(self, reply):
        """Return the keys that were sent and not written, but for those of an update
        that agree with the record.

        `reply` is what the client gets of the record. If it is only a pk, the record is
        hidden, and whether a key agrees with it must not be told.
        """
        is_hidden = reply.keys() == {"pk"}
        ignored = []
        for key in dict.fromkeys(self.unwritten):
            if key in self.plan._key_names or key == self.model_endpoint.version_field:
                continue
            if self.stored is None or is_hidden or not self.agrees(key, reply):
                ignored.append(key)
        return ignored

    def agrees(self, key, reply):
        """Return whether a stored record has what was sent for a key."""
        sent = self.sent[key]
        if self.plan.is_custom:
            for record in (self.shown, reply):
                if key in record and _equals_shown(record[key], sent):
                    return True
            return False
        [part] = [part for part in self.plan.parts if part.name == key]
        try:
            return part.agrees(self, sent, reply)
        except ValidationError:
            return False

    def find_sent_in_order(self):
        """Return the keys that were sent, in the order of the model's fields, and their
        values: an attribute may look at another one, as money at its currency."""
        ordered = {}
        for key in [*self.plan.writable, *self.sent]:
            if key in self.sent:
                ordered[key] = self.sent[key]
        return ordered.items()

    def find_related(self, field, pks):
        """Return by pk the records that a relation may refer to; raise ValidationError
        if it may not refer to one of them."""
        if not pks:
            return {}
        related = field.remote_field.model
        queryset = self.model_endpoint.get_field_queryset(self.request, field)
        queryset = queryset.filter(pk__in=pks)
        queryset = queryset.complex_filter(field.get_limit_choices_to())
        related_endpoint = _get_access(self.request).find_endpoint(related)
        records = {}
        for record in queryset:
            if related_endpoint._allows_get(record):
                records[record.pk] = record
        for pk in pks:
            if pk not in records:
                raise _no_record(related, pk)
        return records

    @contextlib.contextmanager
    def refusing_first(self):
        """Answer 403 if a hook fails while a value is bad or missing.

        The hook may be the one that would have refused the user, who must not learn
        more.
        """
        try:
            yield
        except Exception as error:
            is_refusal = isinstance(error, AJAXError) and error.code == 403
            # For a foreign key without a value, Django raises what is both of these.
            is_missing = isinstance(error, AttributeError) and isinstance(
                error, core_exceptions.ObjectDoesNotExist
            )
            if is_refusal or not (self.errors or is_missing):
                raise
            reason = str(error).rstrip(".")
            hint = f"A hook failed over a value that is missing or wrong: {reason}."
            for name, messages in self.errors.items():
                hint += f" {name}: {' '.join(map(str, messages))}"
            raise AJAXError(403, _MESSAGES[403], **_hint(hint)) from error

    def keeps(self, field):
        """Return whether the value of a column is stored already."""
        return self.stored is not None and _is_same(field, self.stored, self.record)

    def is_changed(self):
        """Return whether any column differs from the stored record."""
        for field in self.record._meta.concrete_fields:
            if not self.keeps(field):
                return True
        return False

    def validate(self):
        """Raise AJAXError 400 with the errors of full_clean() and of what was sent.

        Unchanged fields are skipped. clean(), the unique checks and the constraints run
        once all fields are valid.
        """
        record = self.record
        errors = {name: list(messages) for name, messages in self.errors.items()}
        refused = {}
        try:
            record.clean_fields(exclude=self.find_skipped_names())
            if not errors:
                # full_clean() would clean the fields again, and with `exclude` skip
                # unique checks of the fields that it leaves out.
                record.clean_fields = lambda exclude=None: None
                record.full_clean()
        except ValidationError as error:
            _say_as_forms(error)
            refused = _errors_by_field(error)
        finally:
            vars(record).pop("clean_fields", None)
        # clean() may have set values, too.
        refused = {**self.check_values(), **refused}
        for name, messages in refused.items():
            errors.setdefault(self.find_shown_name(name), []).extend(messages)
        if errors:
            raise _invalid(errors, **self.explain_unwritten(refused))

    def find_skipped_names(self):
        """Return the names of the fields that are not validated: they are unchanged,
        checked already, wrong already, or cannot be set."""
        names = set(self.errors)
        for field in self.plan.own_attributes:
            if not _can_set_again(self.record, field):
                names.add(field.name)
        if self.stored is not None:
            for field in self.record._meta.concrete_fields:
                if self.keeps(field):
                    names.add(field.name)
        for part, key in self.checked_keys.items():
            if key == getattr(self.record, part.field.attname):
                names.add(part.field.name)
        return names

    def check_values(self):
        """Return by field name the messages for values that _VALUE_CHECKS refuse."""
        refused = {}
        connection = connections[self.model_endpoint._using]
        for field, check in _find_value_checks(self.plan.model).items():
            value = vars(self.record).get(field.attname)
            if value is None or self.keeps(field):
                continue
            try:
                check(field, value, connection)
            except ValidationError as error:
                refused[field.name] = error.messages
        return refused

    def explain_unwritten(self, refused):
        """Return, as keywords of an AJAXError, which fields are wrong that clients do
        not write; only in DEBUG."""
        texts = []
        for name, messages in refused.items():
            is_of_record = name == core_exceptions.NON_FIELD_ERRORS
            if not is_of_record and name not in self.plan.writable:
                texts.append(f"{name}: {' '.join(map(str, messages))}")
        if not texts:
            return {}
        advice = "Set it in prepare_record, or let clients write it."
        return _hint(f"{' '.join(texts)} {advice}")

    def find_shown_name(self, name):
        """Return the name under which clients see the errors of a field."""
        if name in self.plan.names:
            return name
        if name in _pk_names(self.plan.model):
            return "pk"
        return core_exceptions.NON_FIELD_ERRORS

    def save_relations(self):
        """Save the values that can be saved only after the record."""
        for part, values in self.relations.items():
            part.save(self.record, values)


# --- Forms ----------------------------------------------------------------------------

# A form reads texts, as a page sends them. It is made with the texts of all values.
# Only then are all its fields known: a form may add some in __init__(). For each field,
# a _FormKey puts into the form's data what a page would send for the field's widget.


def _make_form_data(sent):
    """Return what was sent as a form's data and files. Null is left out.

    Raise TooManyFieldsSent for more keys than a form may have.
    """
    _refuse_many_values(len(sent))  # Making texts of them takes long.
    data = MultiValueDict()
    files = MultiValueDict()
    for key, value in sent.items():
        uploads = [item for item in _as_list(value) if isinstance(item, File)]
        if uploads:
            files.setlist(key, uploads)
        texts = _make_texts(value)
        if texts and value is not None:
            data.setlist(key, texts)
    return data, files


def _make_texts(value):
    """Return the texts of a value that was sent, or of a list of values. Files are not
    among them."""
    items = [item for item in _as_list(value) if not isinstance(item, File)]
    dumped = iter(_dump_each([item for item in items if not isinstance(item, str)]))
    return [item if isinstance(item, str) else next(dumped) for item in items]


def _adapt_form(form, sent, data):
    """Let each field of a form read what was sent, which the form has as `data`.

    Raise TooManyFieldsSent for more values than a form may have.
    """
    columns = _find_written_columns(form)
    is_readable = isinstance(form.data, MultiValueDict)
    for name in form.fields:
        form_key = _FormKey(form, name, columns.get(name))
        if is_readable and form_key.is_as_sent(data):
            form_key.read(sent)
    if sent and is_readable:
        _refuse_many_values(sum(len(values) for _key, values in form.data.lists()))


def _refuse_many_values(count):
    """Raise TooManyFieldsSent for more values than a form may have."""
    limit = settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
    if limit is not None and count > limit:
        raise core_exceptions.TooManyFieldsSent(
            _("The form has too many values. Please send fewer.")
        )


def _find_written_columns(form):
    """Return by name the fields of its model that a ModelForm writes."""
    if not isinstance(form, forms.BaseModelForm):
        return {}
    options = form._meta
    columns = {}
    for name, column in _model_fields(options.model).items():
        is_left_out = options.fields is not None and name not in options.fields
        if not is_left_out and name not in (options.exclude or ()):
            columns[name] = column
    return columns


def _is_tag_field(field):
    if not apps.is_installed("taggit"):
        return False
    from taggit.forms import TagField

    return isinstance(field, TagField)


def _is_array_field(field):
    # By name: django.contrib.postgres cannot be imported without its driver.
    return "SimpleArrayField" in {base.__name__ for base in type(field).__mro__}


#: How Django's widgets read one value. How other widgets read is unknown.
_SINGLE_READERS = {
    widget_class.value_from_datadict
    for widget_class in (
        forms.Widget,
        forms.CheckboxInput,
        forms.Select,
        forms.NullBooleanSelect,
        forms.FileInput,
        forms.ClearableFileInput,
    )
}

#: The values of these are no texts, though Django extends CharField and ChoiceField.
_NO_TEXT_FIELDS = (
    forms.GenericIPAddressField,
    forms.JSONField,
    forms.ModelChoiceField,
    forms.UUIDField,
)


def _reads_several(widget):
    if isinstance(widget, forms.MultipleHiddenInput):
        return True
    return getattr(widget, "allow_multiple_selected", False)


def _reads_one(widget):
    is_single = type(widget).value_from_datadict in _SINGLE_READERS
    return is_single and not _reads_several(widget)


def _find_inputs(widget, key):
    """Yield the key and the widget of each input that a widget consists of."""
    if isinstance(widget, forms.MultiWidget):
        parts = zip(widget.widgets_names, widget.widgets, strict=True)
        for suffix, part in parts:
            yield from _find_inputs(part, f"{key}{suffix}")
    else:
        yield key, widget


def _take_one(sent):
    """Return the one value that was sent; raise ValidationError for a list."""
    value = _only_value(sent)
    if isinstance(value, list):
        raise ValidationError(_("This key takes one value."))
    return value


class _FormKey:
    """Reads what was sent for one field of a form, and cleans it as the field does.

    Its clean() replaces the field's, so that the form has its errors as the field's.
    `column` is the field of the model that a ModelForm writes the value to, or None.
    """

    def __init__(self, form, name, column):
        self.form = form
        self.name = name
        self.key = form.add_prefix(name)
        self.field = form.fields[name]
        self.column = column
        #: What is wrong with the value that was sent.
        self.error = None
        #: Whether null was sent for a file, or for a nullable column.
        self.is_cleared = False
        self.is_null = False
        #: The names of tags that were sent as a list.
        self.tag_names = None
        self.clean_field = self.field.clean
        if isinstance(getattr(self.clean_field, "__self__", None), _FormKey):
            # Several forms share the field, and an earlier one has replaced clean().
            self.clean_field = self.clean_field.__self__.clean_field
        self.field.clean = self.clean

    def is_as_sent(self, data):
        """Return whether the form still has what was sent as `data`, and reads it.

        It may have put a value of its own in its place.
        """
        if self.field.disabled:
            return False
        return self.form.data.getlist(self.key) == data.getlist(self.key)

    def refusal(self, value=""):
        """Return the error for a value that the field cannot read, in its words."""
        messages = self.field.error_messages
        for code in ("invalid", "invalid_choice"):
            if code in messages:
                return ValidationError(messages[code], code, {"value": value})
        return ValidationError(RegexValidator.message)

    # Reading

    def read(self, sent):
        """Put what was sent into the form's data; keep the error of a bad value."""
        try:
            if isinstance(self.field.widget, forms.MultiWidget):
                self.check_parts(sent)
            elif self.key in sent:
                self.put(self.read_texts(sent[self.key]))
        except ValidationError as error:
            self.error = error
        except (TypeError, ValueError):
            self.error = self.refusal()

    def check_parts(self, sent):
        """Raise ValidationError if one of several inputs was sent a list."""
        for key, widget in _find_inputs(self.field.widget, self.key):
            if key in sent and _reads_one(widget):
                _take_one(sent[key])

    def put(self, texts):
        """Put texts into the form's data. An empty text that means the default is left
        out."""
        if texts is None:
            return
        if texts == [""] and self.has_default():
            self.form.data.pop(self.key, None)
        else:
            self.form.data.setlist(self.key, texts)

    def has_default(self):
        """Return whether an empty text means the default, since the column can hold
        neither it nor NULL."""
        column = self.column
        if column is None or column.null or not column.blank:
            return False
        takes_empty = (*_TEXT_FIELDS, models.BooleanField, models.BinaryField)
        return not isinstance(column, takes_empty) and column.has_default()

    def read_texts(self, sent):
        """Return the texts that a page would send, None to keep those that were sent.

        Raise ValidationError for a value of the wrong shape.
        """
        field = self.field
        if self.says_null(sent):
            return self.read_null()
        if field.widget.needs_multipart_form:
            return self.read_file(sent)
        if any(isinstance(item, File) for item in _as_list(sent)):
            raise self.refusal()
        if isinstance(field, forms.JSONField):
            return [self.read_json(sent)]
        if _is_tag_field(field) and _reads_one(field.widget):
            return [self.read_tags(sent)]
        if _is_array_field(field) and isinstance(_only_value(sent), list):
            return [self.read_items(sent)]
        if _reads_several(field.widget):
            return self.read_several(sent)
        if isinstance(field, forms.BooleanField) and _reads_one(field.widget):
            return [self.read_boolean(_take_one(sent), isinstance(sent, _FormValue))]
        if _reads_one(field.widget):
            return [self.read_text(_take_one(sent))]
        return None

    def says_null(self, sent):
        if isinstance(sent, _FormValue):
            return sent == ["null"] and not self.takes_text()
        return sent is None

    def takes_text(self):
        """Return whether the text "null" may be a value, and not NULL."""
        if self.column is not None:
            return isinstance(self.column, _TEXT_FIELDS)
        if isinstance(self.field, _NO_TEXT_FIELDS) or _is_tag_field(self.field):
            return False
        return isinstance(self.field, (forms.CharField, forms.ChoiceField))

    def read_null(self):
        """Return the texts for null: an empty input."""
        field = self.field
        if isinstance(field, forms.FileField):
            if field.required:
                raise ValidationError(field.error_messages["required"], "required")
            self.is_cleared = True
            return None
        if _reads_several(field.widget):
            return []
        if not _reads_one(field.widget):
            return None
        column = self.column
        if column is not None and not column.many_to_many:
            takes_empty = (*_TEXT_FIELDS, models.BooleanField)
            self.is_null = column.null
            if not (column.null or field.required or isinstance(column, takes_empty)):
                raise ValidationError(column.error_messages["null"], "null")
        return [""]

    def read_json(self, sent):
        """Return the text of a JSON value; check one that a form sent as text."""
        if not isinstance(sent, _FormValue):
            return _dump(sent)
        text = _take_one(sent).strip()
        try:
            _parse_json(text or "null")
        except ValueError:
            raise self.refusal() from None
        return text

    def read_file(self, sent):
        """Check what was sent for a file. A text, such as its URL, changes nothing."""
        if _reads_one(self.field.widget):
            sent = _take_one(sent)
        for item in _as_list(sent):
            if not isinstance(item, (File, str)):
                raise self.refusal()

    def read_tags(self, sent):
        """Return the text that taggit parses into the names that were sent.

        Raise ValidationError for names of which there is no such text: taggit cannot
        quote a double quote.
        """
        from taggit.utils import edit_string_for_tags, parse_tags

        value = _only_value(sent)
        tags = _parse_list(value) if isinstance(value, str) else value
        if tags is None:
            return value
        if not isinstance(tags, list):
            raise self.refusal()
        names = self.read_names(tags)
        records = [types.SimpleNamespace(name=name) for name in names]
        for text in (edit_string_for_tags(records), ", ".join(names)):
            if set(parse_tags(text)) == set(names):
                self.tag_names = names
                return text
        raise ValidationError(_("Enter tags without double quotes."))

    def read_names(self, tags):
        """Return the names in a list of tags, stripped, in order, each of them once."""
        names = []
        for tag in tags:
            name = tag.get("name") if isinstance(tag, dict) else tag
            if not isinstance(name, str):
                raise self.refusal()
            names.append(name.strip())
        return [name for name in dict.fromkeys(names) if name]

    def read_items(self, sent):
        """Return the list that was sent for an array, with texts in it."""
        items = []
        for item in sent:
            is_list = isinstance(item, list)
            items.append(self.read_items(item) if is_list else _as_text(item))
        return items

    def read_several(self, sent):
        """Return the texts of several choices."""
        if sent in ("", [""]):
            return []
        values = _read_several(sent) if isinstance(sent, list) else [sent]
        if isinstance(self.field, forms.ModelMultipleChoiceField):
            stored = self.form.initial.get(self.name)
            kept = len(stored) if isinstance(stored, list) else 0
            if len(values) > _MAX_MEMBERS + kept:
                raise ValidationError(_("Select at most %s values.") % _MAX_MEMBERS)
        return [self.read_text(value) for value in values]

    def read_text(self, value):
        """Return one value as the text that a page would send."""
        field = self.field
        is_choice_of_records = isinstance(field, forms.ModelChoiceField)
        if is_choice_of_records and isinstance(value, dict):
            value = self.read_key(value)
        if isinstance(value, str):
            return value if self.takes_text() or is_choice_of_records else value.strip()
        if isinstance(value, bool):
            if isinstance(field, forms.ChoiceField) and not is_choice_of_records:
                text = _dump(value)
                return text if field.valid_value(text) else str(value)
        elif isinstance(value, (int, float)):
            return localize_input(value) if field.localize else _dump(value)
        if type(field).__module__.startswith("django.forms."):
            raise self.refusal(_dump(value)[:100])
        return _dump(value)  # A field of the project's own may read JSON.

    def read_key(self, record):
        """Return the pk of a record that was read before, or what the form takes
        instead of it."""
        name = self.field.to_field_name or "pk"
        if name in _pk_names(self.field.queryset.model):
            name = "pk"
        if name not in record:
            raise self.refusal(_dump(record)[:100])
        return record[name]

    def read_boolean(self, value, is_form):
        """Return the text for true or false. In a form, a checkbox may have another."""
        has_three_states = isinstance(self.field, forms.NullBooleanField)
        if isinstance(value, str):
            value = value.strip()
            if value == "" or (has_three_states and value == "unknown"):
                return value
        try:
            return _dump(_read_boolean(models.BooleanField(), value, True))
        except (ValidationError, ValueError):
            if is_form and not has_three_states:
                return value
            raise self.refusal() from None

    # Cleaning

    def clean(self, value, *initial):
        """Clean a value as the field does; raise ValidationError also for one that
        could not be read or stored."""
        if self.error is not None:
            raise self.error
        if self.is_cleared:
            value = False
        try:
            cleaned = _check_times(self.clean_field(value, *initial))
            _check_storable(cleaned)
            _check_form_integer(self.field, cleaned)
            if self.is_null and cleaned in self.field.empty_values:
                return None
            return self.check_column(cleaned)
        except (*_UNREADABLE, RecursionError):
            # What Django's fields let through: numbers beyond a column, odd base64.
            raise self.refusal() from None

    def check_column(self, value):
        """Return a clean value as the column takes it; raise ValidationError for one
        that the column cannot hold."""
        column = self.column
        if _is_tag_field(self.field) and isinstance(value, list):
            return self.check_tags(value)
        if isinstance(column, models.BinaryField) and isinstance(value, str):
            if value == "" and column.null:
                return None
            return b64decode(_join_lines(value), validate=True)
        if column is not None:
            _check_value(column, value, router.db_for_write(column.model))
        return value

    def check_tags(self, names):
        """Return the names of tags; raise ValidationError for too many, or a bad one.

        Tags that the record has already may stay.
        """
        stored = self.form.initial.get(self.name)
        kept = set()
        if isinstance(stored, list):
            kept = {getattr(tag, "name", None) for tag in stored}
        added = [name for name in names if name not in kept]
        if len(added) > _MAX_TAGS:
            raise ValidationError(_("Enter at most %s tags.") % _MAX_TAGS)
        if _is_tags_manager(self.column):
            tag_field = self.column.remote_field.model._meta.get_field("name")
            for name in added:
                tag_field.clean(name, None)
        if self.tag_names is not None and set(self.tag_names) == set(names):
            return self.tag_names  # taggit sorts what it parses.
        return names


def _as_list(value):
    return value if isinstance(value, list) else [value]


def _check_times(value):
    """Return date-times, in lists too, as USE_TZ wants them; check those of ranges."""
    if isinstance(value, datetime.datetime):
        return _read_datetime(value)
    if isinstance(value, list):
        return [_check_times(item) for item in value]
    if hasattr(value, "lower_inc"):
        _check_times(value.lower)
        _check_times(value.upper)
    return value


def _lock_instance(form):
    """Lock the row of a ModelForm's saved instance, and read the instance again.

    Return whether there is one; raise AJAXError 404 if its row is gone.
    """
    if not isinstance(form, forms.BaseModelForm) or form.instance._state.adding:
        return False
    instance = form.instance
    model = instance._meta.model
    using = router.db_for_write(model, instance=instance)
    queryset = models.QuerySet(model, using=using).select_for_update()
    # The instance may be of another database than the one of the transaction.
    with transaction.atomic(using, savepoint=False):
        try:
            instance.refresh_from_db(using, from_queryset=queryset)
        except model.DoesNotExist:
            raise _record_not_found(model, instance.pk) from None
    return True


def _errors_as_sent(form, errors):
    """Return errors by the keys under which a form's fields are sent."""
    errors_by_key = {}
    for name, messages in errors.items():
        key = form.add_prefix(name) if name in form.fields else name
        errors_by_key[key] = list(messages)
    return errors_by_key


def _plain_cleaned_data(form):
    """Return a form's cleaned data as plain data, with all records in it as pks."""
    plain = {}
    for name, value in form.cleaned_data.items():
        if isinstance(form.fields.get(name), forms.JSONField):
            plain[name] = _load(_dump_json_values([value])[0])
        elif isinstance(value, (models.Model, Iterable)):
            plain[name] = _to_plain(value, _plain_pks)
        else:
            # A field may have a class of its own for its values.
            plain[name] = _plain_column_value(value)
    return plain


def _plain_pks(records):
    return [_plain_pk(record) for record in records]


# --- Operations -----------------------------------------------------------------------


class _Operation(NamedTuple):
    """A row in the table of operations."""

    method_name: str
    #: Whether it wants a record; None for one that is called with or without.
    on_record: bool | None
    #: The hook that allows it, and the action of Django's permission for it. Its method
    #: asks them by _permit(), or asks the hook itself.
    hook: str = "can_get"
    permission: str = ""
    #: Whether it only reads.
    reads: bool = False
    #: What the explorer asks the user first.
    question: str = ""
    #: What openapi.json says that it does, of a model and its models.
    summary: str = ""
    is_custom: bool = False
    #: Whether it is one transaction that locks the record.
    locks_record: bool = False


#: The operations of every model. To add one, write its method, a line here, and the
#: schemas of its request and reply in _make_shapes(). The method has to ask its hook
#: (by _permit(), or as `list` does), and to write within _transaction().
_OPERATIONS = {
    "create": _Operation(
        "create", False, "can_create", "add", summary="Create {model}."
    ),
    "list": _Operation("list", False, "can_list", reads=True, summary="List {models}."),
    "get": _Operation("get", True, reads=True, summary="Get {model}."),
    "update": _Operation(
        "update", True, "can_update", "change", summary="Update {model}."
    ),
    "delete": _Operation(
        "delete",
        True,
        "can_delete",
        "delete",
        question="Delete this record?",
        summary="Delete {model}.",
    ),
}
_CHANGE_TAGS = _Operation("tags", True, "can_update", "change")
#: The commands of a TaggableManager.
_COMMANDS = {
    "add": _CHANGE_TAGS._replace(
        summary="Add tags to {model}; return all its tags.",
    ),
    "remove": _CHANGE_TAGS._replace(
        summary="Remove tags from {model}; return the tags that are left.",
    ),
    "set": _CHANGE_TAGS._replace(
        summary="Replace the tags of {model}; return them.",
    ),
    "clear": _CHANGE_TAGS._replace(
        question="Remove all tags of this record?",
        summary="Remove all tags from {model}.",
    ),
    "similar": _Operation(
        "_similar",
        True,
        reads=True,
        summary="Return the {models} that share tags with this one, most shared first.",
    ),
}
#: The only operation of a function or a form.
_CALL = _Operation("create", False)


@functools.cache
def _operations(endpoint_class):
    """Return all operations of an endpoint class, by name."""
    operations = dict(_OPERATIONS)
    for base in endpoint_class.__mro__:
        if not issubclass(base, ModelEndpoint):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") or hasattr(ModelEndpoint, name):
                continue
            is_overridden = getattr(endpoint_class, name) is not value
            if is_overridden or not _is_operation(value):
                continue
            parameters = getattr(value, "_parameters", None)
            takes_record = parameters is not None and parameters.takes_record
            operations[name] = _Operation(
                name,
                True if takes_record else None,
                summary=f"Call `{name}` of {{model}}.",
                is_custom=True,
                locks_record=takes_record,
            )
    return operations


# --- Endpoints ------------------------------------------------------------------------


class BaseAuthentication:
    """Decides who may call models and forms: every user who is logged in and active.

    Extend it, and name the class in the setting AJAX_AUTHENTICATION.
    """

    def is_authenticated(self, request, application, method) -> bool:
        """Return whether the request's user may call the operation `method`."""
        return _is_logged_in(request) and request.user.is_active


def _find_authentication_class():
    """Return the class that AJAX_AUTHENTICATION names.

    Raise ImproperlyConfigured for one that would let the wrong users in.
    """
    dotted_path = getattr(settings, "AJAX_AUTHENTICATION", None)
    if dotted_path is None:
        return BaseAuthentication
    authentication_class = import_string(dotted_path)
    _refuse_authentication(authentication_class)
    return authentication_class


def _find_largest_page():
    """Return AJAX_MAX_PER_PAGE; raise ImproperlyConfigured if it is no size."""
    size = getattr(settings, "AJAX_MAX_PER_PAGE", 100)
    if not _is_page_size(size):
        problem = _describe_mismatch(size, "a number from 1")
        raise ImproperlyConfigured(f"The setting AJAX_MAX_PER_PAGE {problem}")
    return size


class BaseEndpoint:
    """A callable endpoint: extend it, define `__call__(self, request)`, and put an
    instance into endpoints.py."""

    csrf_exempt = False

    def _encode_record(self, record):
        """Return a record as a dict."""
        return _encode_for(self, record)

    def _encode_data(self, data):
        """Return a QuerySet, or any iterable of records, as a list of dicts."""
        return _encode_for(self, data)


def _encode_for(served_endpoint, value):
    """Return a value as plain data, with records as the endpoint's user may see them.

    Only the endpoints of models and forms know the request, and so the user.
    """
    request = getattr(served_endpoint, "request", None)
    return _to_plain(value, partial(_encode_records, request=request))


class _Function(BaseEndpoint):
    """An ad-hoc endpoint, as `dispatch` uses it."""

    _operation = _CALL

    def __init__(self, view):
        self.view = view
        # Decorators mark a view, or the __call__ of an object's class.
        marked = [view, type(view).__call__]
        self.csrf_exempt = any(getattr(mark, "csrf_exempt", False) for mark in marked)
        self.is_login_exempt = any(
            not getattr(mark, "login_required", True) for mark in marked
        )
        self._non_atomic_requests = getattr(view, "_non_atomic_requests", ())
        called = view if inspect.isroutine(view) else type(view).__call__
        self.parameters = getattr(called, "_parameters", None)
        if self.parameters is not None and self.parameters.takes_record:
            message = "only an operation of a ModelEndpoint has a record."
            raise ImproperlyConfigured(
                f"{_full_name(called)}: {message} Give the parameter another name."
            )
        if self.parameters is not None and self.parameters.is_method:
            if inspect.isfunction(view):
                message = "must take request first."
                raise ImproperlyConfigured(f"{_full_name(called)} {message}")

    @property
    def wants_login(self):
        """Whether LoginRequiredMiddleware wants a login."""
        if self.is_login_exempt:
            return False
        return _has_login_middleware(tuple(settings.MIDDLEWARE))

    def _authorize(self, request):
        """Raise AJAXError 403 if the user has to log in."""
        if self.wants_login:
            _require_login(request)

    def _run(self, request):
        """Return what the function returns."""
        return _run_view(self.view, request)


@functools.lru_cache(maxsize=8)
def _has_login_middleware(middleware):
    from django.contrib.auth.middleware import LoginRequiredMiddleware

    for dotted_path in middleware:
        middleware_class = import_string(dotted_path)
        # It may also be a function.
        if isinstance(middleware_class, type):
            if issubclass(middleware_class, LoginRequiredMiddleware):
                return True
    return False


def _record_not_found(model, pk):
    message = _('%(model)s with id of "%(pk)s" not found.')
    return AJAXError(404, message % {"model": model.__name__, "pk": pk})


class _ServedEndpoint(BaseEndpoint):
    """What the endpoints of models and forms share. There is one instance per request.

    It has `request`; `application`, the app label in the path; `model`, or the form's
    class; `method`, the operation or the tags manager; and `pk` and `command` of the
    path, or None.
    """

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
        """The request's user, an anonymous one if there is no request or no user."""
        user = getattr(self.request, "user", None)
        if user is not None:
            return user
        from django.contrib.auth.models import AnonymousUser

        return AnonymousUser()

    def authenticate(self, request, application, method) -> bool:
        """Return whether the user may call at all; by default AJAX_AUTHENTICATION says
        so."""
        authentication = _find_authentication_class()()
        answer = authentication.is_authenticated(request, application, method)
        return _is_yes(authentication, "is_authenticated", answer)

    def _find_operation(self):
        """Return the operation that the path names."""
        return _CALL

    def _authorize(self, request):
        """Raise AJAXError 403 if the user may not call, 415 if the body's type is none
        that is read."""
        self.request = request
        answer = self.authenticate(request, self.application, self.method)
        if not _is_yes(self, "authenticate", answer):
            refusal = self._refusal("authenticate")
            if not _is_logged_in(request):
                refusal = _make_login_error(**refusal.extra)
            raise refusal
        _check_content_type(request)

    def _run(self, request):
        """Return what the operation returns."""
        return _run_view(getattr(self, self._operation.method_name), request)

    def _refusal(self, hook):
        """Return the AJAXError 403 for a hook that said no."""
        hint = _hint(f"{hook} of {type(self).__name__} returned False")
        return AJAXError(403, _MESSAGES[403], **hint)


class ModelEndpoint(_ServedEndpoint):
    """Serves the records of a model, the way ModelAdmin does; register a subclass.

    Every hook can use `self.request`, `self.user`, `self.model`, `self.pk` and
    `self.record`. A public method of which the only required argument is `request` is
    an operation of its own, with or without a record.
    """

    # Options: what is shown and written

    #: The names that clients see and may send; None and "__all__" are all model fields
    #: and annotations. It may also name properties and methods, of the endpoint (whose
    #: methods get the record) or of the model, and the accessors of foreign keys to the
    #: model: children.
    fields: Any = None
    #: The names that clients neither see nor send.
    exclude: Any = ()
    #: The names that clients see and never write; `immutable_fields` is the old name.
    readonly_fields: Any = ()
    immutable_fields: Any = ()
    #: By name, the expressions that are added to the query, or functions of the request
    #: that return one. They are shown, sorted by and filtered on, never written.
    annotations: Any = {}
    #: The foreign keys that are shown as whole records: True for all, a number of
    #: levels, names such as "category__parent", or False for none. Names may also be of
    #: many-to-many relations.
    expand: Any = True

    #: A shown column that each save changes, such as an `auto_now` one. An update or
    #: delete that sends another value than the stored one is answered with 409.
    version_field: Any = None

    # Options: what `list` does

    #: The order of `list`; None is the order of the queryset or the model.
    ordering: Any = None
    #: What clients may order by, search in, and filter on; names as for `filter()`.
    sortable_by: Any = ()
    search_fields: Any = ()
    list_filter: Any = ()
    #: The usual and the largest size of a page; None is the setting AJAX_MAX_PER_PAGE.
    list_per_page = 20
    max_per_page: Any = None

    # Options: who may do what

    #: The names of the operations that are offered, None for all. The name of a tags
    #: manager stands for its commands.
    operations: Any = None
    #: Whether writes also want Django's permissions; None is True for user models and
    #: for the models of django.contrib.auth.
    require_permissions: Any = None

    # Operations

    def create(self, request):
        """Save a new record; return it as `get` would."""
        draft = _Draft(self)
        with _removing_uploads(request), _transaction(self._using):
            self.record = record = self.model()
            draft.read_into(record)
            looks_at_record = _overrides(type(self), "can_create")
            if not looks_at_record:
                self._permit("create", record)  # prepare_record may want a user.
            with draft.refusing_first():
                _change(self.prepare_record, request, record, True)
                if looks_at_record:
                    self._permit("create", record)
            draft.validate()
            _force_insert(record)
            with _storing_uploads(request, record, draft.find_shown_name):
                _change(self.save_record, request, record, True)
            draft.save_relations()
            ajax_created.send(sender=self.model, instance=record, request=request)
            return self._show_written(record.pk, draft)

    def get(self, request):
        """Return the record."""
        plan = self._plan
        batch = plan.reader.load_one(self._parse_pk(), self)
        if not batch.pks:
            raise self._not_found()
        if plan.asks_can_get:
            self.record = batch.records[0]
            self._get_visible_record()
        return _load(plan.encode(batch)[0])

    def update(self, request):
        """Save what changed of the record; return it as `get` would."""
        draft = _Draft(self)
        with _removing_uploads(request), _transaction(self._using):
            # Code of the project's that tracks changes wants the very instance that was
            # read to be saved.
            modified = self._get_record(locked=True)
            self.record = stored = _copy_record(modified)
            draft.read_into(modified, stored)
            with draft.refusing_first():
                _change(self.prepare_record, request, modified, False)
                self._permit("update", stored, modified=modified)
            self._check_version(stored, draft.sent)
            draft.validate()
            is_changed = draft.is_changed()
            if is_changed or draft.relations:
                self.record = modified
                if is_changed or self.version_field:
                    with _storing_uploads(request, modified, draft.find_shown_name):
                        _change(self.save_record, request, modified, False)
                draft.save_relations()
                ajax_updated.send(sender=self.model, instance=modified, request=request)
            return self._show_written(stored.pk, draft)

    def delete(self, request):
        """Delete the record; return {"pk": ...}."""
        with _transaction(self._using):
            record = self._get_record(locked=True)
            self._permit("delete", record)
            if self.version_field:
                self._check_version(record, _read_keys(request))
            payload = {"pk": _plain_pk(record)}
            _change(self.delete_record, request, record)
            ajax_deleted.send(
                sender=self.model, instance=record, payload=payload, request=request
            )
            return payload

    def list(self, request):
        """Return a page of records; `total` and the like go beside them."""
        if not _is_yes(self, "can_list", self.can_list(self.user)):
            raise self._refusal("can_list")
        if request.META.get("QUERY_STRING"):
            message = _("Send the parameters in the body, not in the query string.")
            raise AJAXError(400, message)
        sent = _read_keys(request)
        default_size, largest_size = self._get_page_sizes()
        size = _read_whole_number(sent.pop("items_per_page", None), default_size)
        size = min(max(1, size), largest_size)
        page = max(1, _read_whole_number(sent.pop("current_page", None), 1))
        order, conditions = _ListOptions(self).read(sent)
        start = (page - 1) * size
        batch, total = self._plan.reader.load_page(self, conditions, order, start, size)
        metadata = {
            "total": total,
            "total_pages": max(1, math.ceil(total / size)),
            "current_page": page,
            "items_per_page": size,
        }
        return _Page(self._plan.encode(batch), metadata)

    def tags(self, request):
        """Run a tags command that changes the record; return all its tags."""
        with _transaction(self._using):
            record = self._get_visible_record(locked=True)
            self._permit("update", record, modified=record)
            part = self._plan.tag_parts[self.method]
            stored_names = part.find_names(record, self._using)
            command = getattr(getattr(record, self.method), self.command)
            if self.command == "clear":
                command()
            elif self.command == "set":
                command(self._read_tag_names(request, stored_names, part))
            else:
                command(*self._read_tag_names(request, stored_names, part))
            if self.version_field:
                names = part.find_names(record, self._using)
                if set(names) != set(stored_names):
                    _change(self.save_record, request, record, False)
            return json.loads(part.encode_tags([record.pk], self._using)[0])

    # Hooks: which records there are, and how they are written

    @functools.cached_property
    def record(self) -> Any:
        """The record of the path, None without one; AJAXError 404 if it is missing."""
        if self.pk is None:
            return None
        return self._get_record()

    def get_queryset(self, request) -> models.QuerySet:
        """Return the records that exist for this request."""
        return self.model._default_manager.all()

    def get_field_queryset(self, request, field) -> models.QuerySet:
        """Return the records that clients may send for a relation.

        `limit_choices_to` narrows them further.
        """
        return _get_access(request).get_queryset(field.remote_field.model)

    def prepare_record(self, request, record: Any, created: bool) -> None:
        """Change a record after it was read, before permissions are asked."""

    def save_record(self, request, record: Any, created: bool) -> None:
        """Save a record that is permitted and valid, within the transaction."""
        record.save()

    def delete_record(self, request, record: Any) -> None:
        """Delete a record, within the transaction."""
        record.delete()

    # Hooks: who may do what

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
        """Return whether the user may change `record`, a copy of the record as it is
        stored, to `modified`, the record with the changes, which is not saved yet.

        Neither has the new many-to-many values and tags. By default, users may change
        what they may see.
        """
        return user.is_active and self.can_get(user, record)

    def can_delete(self, user, record: Any) -> bool:
        """Return whether the user may delete the record; by default, users may delete
        what they may see."""
        return user.is_active and self.can_get(user, record)

    # From the path to the operation

    #: The keys that were sent to create() or update() and not written.
    _ignored = ()

    @classmethod
    def _for_model(cls, model, request):
        """Return an endpoint for a model that another endpoint's request touches."""
        model_endpoint = cls(model._meta.app_label, model, "get")
        model_endpoint.request = request
        return model_endpoint

    def _find_operation(self):
        """Return the operation that the path names.

        Raise AJAXError 404 if there is none, 400 if it wants a record and the path has
        none.
        """
        if self.command:
            return self._find_command()
        operation = _operations(type(self)).get(self.method)
        if operation is None or not self._offers(self.method):
            raise self._no_operation()
        has_record = self.pk is not None
        if operation.on_record and not has_record:
            message = _("This operation needs a record. Add its pk to the path.")
            raise AJAXError(400, message)
        if has_record and operation.on_record is False:
            raise self._no_operation()
        return operation

    def _find_command(self):
        """Return the operation of a tags command; a manager that clients may not write
        has only `similar`."""
        if not self._offers(self.method) or self.method not in self._plan.tag_parts:
            raise self._no_operation()
        operation = _COMMANDS.get(self.command)
        if operation and (operation.reads or self.method in self._plan.writable):
            return operation
        raise _missing(_("There is no such operation."), self.command, _COMMANDS)

    @classmethod
    def _offers(cls, name):
        """Return whether `operations` has an operation, or a tags manager."""
        return cls.operations is None or name in cls.operations

    def _no_operation(self):
        """Return the AJAXError 404 for an operation that is not offered."""
        message = _("There is no such operation.")
        if hint := self._explain_no_operation():
            return AJAXError(404, message, **_hint(hint))
        names = self.operations
        if names is None:
            names = {*_operations(type(self)), *self._plan.tag_parts}
        return _missing(message, self.method, names)

    def _explain_no_operation(self):
        """Return why a method of the class is not an operation at this path, None if
        there is no such method."""
        endpoint_class = type(self)
        place = f"{endpoint_class.__name__}.{self.method}"
        if self.method in _operations(endpoint_class):
            if not self._offers(self.method):
                return (
                    f'Add "{self.method}" to operations of {endpoint_class.__name__}.'
                )
            return f"{place} takes no pk."
        method = getattr(endpoint_class, self.method, None)
        is_own = not self.method.startswith("_") and _defines(
            endpoint_class, self.method
        )
        if is_own and inspect.isfunction(method):
            return f"{place} takes more than request: put @ajax.validated above it."
        return None

    def _run(self, request):
        """Return what the operation returns; a custom one on a record wants can_get to
        allow it."""
        if self._operation.locks_record:
            with _transaction(self._using):
                self._get_visible_record(locked=True)
                return _success_response(self._run_method(request), request)
        if self._operation.is_custom and self.pk is not None:
            self._get_visible_record()
        return self._run_method(request)

    def _run_method(self, request):
        """Return what the operation's method returns, with the keys that it ignored."""
        result = super()._run(request)
        if not self._ignored or isinstance(result, (AJAXError, HttpResponseBase)):
            return result
        if not isinstance(result, EnvelopedResponse):
            result = EnvelopedResponse(result, {})
        metadata = {**result.metadata, "ignored": self._ignored}
        return EnvelopedResponse(result.data, metadata)

    def _permit(self, name, *records, **modified):
        """Raise AJAXError 403 unless the hook of an operation allows it, and the user
        has the permission, if it is wanted."""
        operation = _OPERATIONS[name]
        hook = getattr(self, operation.hook)
        answer = _call_hook(hook, self.user, *records, **modified)
        if not _is_yes(self, operation.hook, answer):
            raise self._refusal(operation.hook)
        if self._wants_permissions:
            self._require_permission(operation.permission)

    def _allows_get(self, record):
        """Return whether can_get lets the user see a record."""
        return _is_yes(self, "can_get", self.can_get(self.user, record))

    def _require_permission(self, action):
        """Raise AJAXError 403 unless the user has Django's permission for an action."""
        opts = self.model._meta
        permission = f"{opts.app_label}.{get_permission_codename(action, opts)}"
        if not hasattr(self.user, "has_perm"):
            hint = _hint("the user model has no has_perm: extend PermissionsMixin")
        elif not self.user.has_perm(permission):
            hint = _hint(f"the user lacks {permission}")
        else:
            return
        raise AJAXError(403, _MESSAGES[403], **hint)

    @property
    def _wants_permissions(self):
        if self.require_permissions is None:
            return _is_user_model(self.model) or _is_of_auth(self.model)
        return self.require_permissions

    # The record of the path

    @cached_property
    def _plan(self):
        return _get_plan(self.model, type(self), True)

    @cached_property
    def _using(self):
        """The alias of the database that is written to."""
        return router.db_for_write(self.model)

    def _parse_pk(self):
        """Return the pk of the path; raise AJAXError 404 for one that is no pk."""
        try:
            return _read_pk(self.model, self.pk)
        except ValidationError:
            raise self._not_found() from None

    def _get_record(self, locked=False):
        """Return the record of the path; raise AJAXError 404 if it is missing."""
        pk = self._parse_pk()
        self.record = None  # get_queryset() may look at it while it is fetched.
        if locked:
            self.record = self._plan.reader.lock_one(pk, self, self._using)
        else:
            self.record = self.get_queryset(self.request).filter(pk=pk).first()
        if self.record is None:
            raise self._not_found()
        return self.record

    def _get_visible_record(self, locked=False):
        """Return the record of the path; raise AJAXError 403 if can_get says no."""
        record = self._get_record(locked=True) if locked else self.record
        if not self._allows_get(record):
            raise self._refusal("can_get")
        return record

    def _not_found(self):
        return _record_not_found(self.model, self.pk)

    def _show_record(self, pk):
        """Return a record as `get` shows it, only its pk if `get` would not."""
        reader = self._plan.reader
        batch = reader.drop_refused(reader.load_one(pk, self, self._using))
        texts = self._plan.encode(batch)
        if texts:
            return _load(texts[0])
        return {"pk": _plain_column_value(pk, self.model._meta.pk)}

    def _show_written(self, pk, draft):
        """Return a written record; keep the keys that were ignored, for the reply."""
        reply = self._show_record(pk)
        ignored = dict.fromkeys([*self._ignored, *draft.find_ignored(reply)])
        self._ignored = list(ignored)
        return reply

    def _check_version(self, record, sent):
        """Raise AJAXError 409 if the record was changed since the user read it, 400 for
        a version that cannot be read."""
        name = self.version_field
        if name is None or name not in sent:
            return
        field = self.model._meta.get_field(name)
        try:
            version = _read_value(field, sent[name])
        except ValidationError as error:
            raise _invalid({name: error.messages}) from None
        if version != getattr(record, field.attname):
            message = _("Somebody else has changed this record.")
            raise AJAXError(409, message, current=self._show_record(record.pk))

    # Lists and tags

    def _get_page_sizes(self):
        """Return the usual and the largest size of a page."""
        largest = self.max_per_page
        if largest is None:
            largest = _find_largest_page()
        return min(self.list_per_page, largest), largest

    def _similar(self, request):
        """Return the records that share tags with this one, most shared first."""
        record = self._get_visible_record()
        reader = self._plan.reader
        using = self.get_queryset(request).db
        queryset = reader.get_queryset(self).exclude(pk=record.pk)
        part = self._plan.tag_parts[self.method]
        queryset = part.rank(queryset, record.pk, using)
        size, _largest = self._get_page_sizes()
        texts = self._plan.encode(reader.load_visible(queryset[:size], self))
        return [_load(text) for text in texts]

    def _read_tag_names(self, request, stored_names, part):
        """Return the names of the tags that were sent, or raise AJAXError 400."""
        sent = _read_keys(request)
        errors = _explain_unknown(sent, ["tags"], ["tags"])
        names = []
        try:
            names = _read_tags(part.field, sent.get("tags"), stored_names)
        except ValidationError as error:
            errors["tags"] = error.messages
        if errors:
            raise _invalid(errors)
        return names


class FormEndpoint(_ServedEndpoint):
    """Serves a Django form: validates what is sent, saves it, returns the result."""

    def get_form_kwargs(self, request) -> dict[str, Any]:
        """Return further keyword arguments for the form, such as `instance`.

        It is called again once the row of a saved instance is locked.
        """
        return {}

    def create(self, request):
        """Return what `form.save()` returned, else the cleaned data, records as pks."""
        form = self._make_form(request)
        if _lock_instance(form):
            form = self._make_form(request)
            if form.instance._state.adding:
                # It is not this user's to edit any more: nothing new is created.
                raise AJAXError(404, _MESSAGES[404])
        if not form.is_valid():
            raise _invalid(_errors_as_sent(form, form.errors))
        uploads = contextlib.nullcontext()
        if hasattr(form, "instance"):
            _force_insert(form.instance)
            uploads = _storing_uploads(request, form.instance)
        if not hasattr(form, "save"):
            return _plain_cleaned_data(form)
        try:
            with uploads:
                return form.save()
        except ValidationError as error:
            errors = _errors_as_sent(form, _errors_by_field(error))
            raise ValidationError(errors) from error

    def _run(self, request):
        """Return what `create` does; a ModelForm is one transaction up to the reply."""
        _get_access(request).form_names = list(self.model.base_fields)
        options = getattr(self.model, "_meta", None)
        if options is None:
            return super()._run(request)
        with _transaction(router.db_for_write(options.model)):
            return _success_response(super()._run(request), request)

    def _make_form(self, request):
        """Return the form with what was sent, as its fields read it."""
        sent = _read_keys(request)
        data, files = _make_form_data(sent)
        own_kwargs = self.get_form_kwargs(request)
        form = self.model(**{"data": data.copy(), "files": files, **own_kwargs})
        _adapt_form(form, {} if "data" in own_kwargs else sent, data)
        _get_access(request).form_names = list(form.fields)
        return form


# --- Registry -------------------------------------------------------------------------


class _EndpointRegistry(_Registry):
    """The registry of what is served: models and forms, by class and by path."""

    def __init__(self):
        super().__init__()
        #: By (ModelEndpoint or FormEndpoint, app label, name), the model or form.
        self._paths = {}

    def register(self, model, endpoint_class=None) -> None:
        """Serve a model or form, or several of them, by an endpoint class.

        A swapped model is skipped. Raise AlreadyRegistered for a model, form or path
        that is served, and ImproperlyConfigured for what cannot be served.
        """
        several = list(_flatten(model))
        for item in several:
            self._register_one(item, endpoint_class, several)

    def _register_one(self, model, endpoint_class, several):
        """Serve one of several models or forms that are registered together."""
        base = _find_base(model)
        endpoint_class = endpoint_class or base
        _check_served(model, endpoint_class, base)
        same_class = [*several, *self._find_served_by(endpoint_class)]
        _refuse_endpoint(base, endpoint_class, model, same_class)
        if base is ModelEndpoint and model._meta.swapped:
            return
        if model in self._registry:
            raise AlreadyRegistered(f"{_label(model)} is registered already.")
        paths = [(base, *pair) for pair in _find_paths(model, endpoint_class)]
        for key in paths:
            self._check_free(key, model)
        self._add(model, endpoint_class)
        self._paths.update(dict.fromkeys(paths, model))

    def _find_served_by(self, endpoint_class):
        """Return the models and forms that an endpoint class serves already."""
        served = []
        for model, registered_class in self._registry.items():
            if registered_class is endpoint_class:
                served.append(model)
        return served

    def _check_free(self, key, model):
        if key in self._paths:
            _base, label, name = key
            labels = f"{_label(model)} and {_label(self._paths[key])}"
            raise AlreadyRegistered(f"{labels} are both at {label}/{name}.json.")

    def unregister(self, model) -> None:
        """Serve a model or form, or several of them, no more.

        Raise NotRegistered for one that is not served.
        """
        for item in _flatten(model):
            super().unregister(item)
            for key, served in list(self._paths.items()):
                if served is item:
                    del self._paths[key]

    def find(self, model):
        """Return the endpoint class of a model, ModelEndpoint if none is registered."""
        return super().find(model) or ModelEndpoint

    def has(self, model):
        """Return whether a model, or a model that it is a proxy of, is registered."""
        return super().find(model) is not None

    def is_closed(self, model):
        """Return whether a model has no endpoint, but another model on one of its
        tables has one: nobody said what of the model may be seen."""
        if self.has(model):
            return False
        return not _find_tables(model).isdisjoint(_find_served_tables())


def _flatten(served):
    """Yield the models and forms of a list, and of the lists in it."""
    if served and isinstance(served, (list, tuple, set)):
        for item in served:
            yield from _flatten(item)
    else:
        yield served


def _find_tables(model):
    """Return the concrete models whose tables hold the records of a model."""
    return {base._meta.concrete_model for base in (model, *model._meta.all_parents)}


@functools.cache
def _find_served_tables():
    """Return the concrete models whose tables hold records that are served."""
    tables = set()
    for served in endpoint._registry:
        if issubclass(served, models.Model):
            tables |= _find_tables(served)
    return tables


def _find_base(served):
    """Return the base class of the endpoints for a model or form."""
    if isinstance(served, type):
        if issubclass(served, models.Model):
            return ModelEndpoint
        if issubclass(served, forms.BaseForm):
            return FormEndpoint
    raise ImproperlyConfigured(f"{served!r} is neither a model nor a form.")


def _check_served(served, endpoint_class, base):
    """Raise ImproperlyConfigured for a model or form that cannot be served."""
    if not isinstance(endpoint_class, type) or not issubclass(endpoint_class, base):
        message = f"{_label(served)} needs a class that extends {base.__name__}."
        raise ImproperlyConfigured(message)
    if base is ModelEndpoint:
        pk = served._meta.pk
        if pk is None or isinstance(pk, models.CompositePrimaryKey):
            message = (
                f"{_label(served)} is abstract, or its primary key has several fields. "
                "Register another model."
            )
            raise ImproperlyConfigured(message)


def _label(served):
    """Return the label of a model, or the dotted path of a form."""
    opts = getattr(served, "_meta", None)
    return getattr(opts, "label", f"{served.__module__}.{served.__name__}")


def _find_paths(served, endpoint_class):
    """Return the (app label, name) pairs under which a model or form is found."""
    labels = []
    if issubclass(served, models.Model):
        labels.append(served._meta.app_label)
    for module in (served.__module__, endpoint_class.__module__):
        if module != __name__:
            config = apps.get_containing_app_config(module)
            if config:
                labels.append(config.label)
    if not labels:
        message = f"{_label(served)} is in no app of INSTALLED_APPS. Add its app."
        raise ImproperlyConfigured(message)
    return [(label, served.__name__.lower()) for label in dict.fromkeys(labels)]


endpoint = _EndpointRegistry()


def register(*served) -> Callable[[type], type]:
    """Decorate an endpoint class to serve models or forms, as `endpoint.register`.

    Raise ImproperlyConfigured if no model is named.
    """
    names_model = bool(served)
    for item in served:
        if isinstance(item, type) and issubclass(item, _ServedEndpoint):
            names_model = False
    if not names_model:
        raise ImproperlyConfigured("Write @ajax.register(TheModel).")

    def decorate(endpoint_class):
        endpoint.register(served, endpoint_class)
        return endpoint_class

    return decorate


# --- What registering refuses ---------------------------------------------------------

# A misspelt hook is never called. The default one is called instead, and the records
# are open. So such a class is refused when it is registered. The message names the
# class and the name, and says what to write instead.
#
# Each rule is a function that yields what it finds in a class: the class that defines a
# name, the name, and the end of a sentence about it.

_ASK_AUTHENTICATE = "Override authenticate()."
_ASK_ANY_AUTHENTICATION = "Override authenticate(), or set AJAX_AUTHENTICATION."
_NO_THROTTLING = (
    "Calls are not throttled. Count them in authenticate(), and raise "
    "AJAXError(429, ...) there."
)
#: The advice that is right for forms too, of which few hooks are asked.
_ADVICE_FOR_FORMS = (_ASK_AUTHENTICATE, _ASK_ANY_AUTHENTICATION, _NO_THROTTLING)

#: Names that nothing asks, by what to do instead: names of the old package, of
#: ModelAdmin, of Django's views, and of Django REST framework, django-ninja and others.
_UNASKED_NAMES = {
    _ASK_ANY_AUTHENTICATION: """
        authentication authentication_classes get_authenticators perform_authentication
        authentification check_permissions permission_denied has_permission
        has_module_permission login_required login_url get_login_url redirect_field_name
        test_func get_test_func raise_exception permission_denied_message
        get_permission_denied_message handle_no_permission dispatch initial
        is_authenticated
        """,
    "Override authenticate(), or can_create(), can_update() and can_delete().": """
        permission_classes get_permissions
        """,
    _NO_THROTTLING: """
        throttle_classes throttle_scope get_throttles check_throttles
        """,
    "Set require_permissions = True, or override can_update() and can_delete().": """
        permission_required get_permission_required
        """,
    "Override can_get(), can_update() and can_delete().": """
        has_object_permission check_object_permissions
        """,
    "Override can_create().": "has_add_permission has_create_permission can_add",
    "Override can_get() and can_list().": "has_view_permission has_read_permission",
    "Override can_get().": "can_read can_view",
    "Override get(), or register an encoder.": "retrieve",
    "Override can_update().": """
        has_change_permission has_update_permission can_change can_edit
        """,
    "Override can_delete().": """
        has_delete_permission has_destroy_permission get_deleted_objects
        """,
    "Override prepare_record() to fill in values, or save_record() to save them.": """
        _save save_model save_form save_formset save_related perform_create
        perform_update partial_update pre_save post_save form_valid get_initial
        get_changeform_initial_data prepopulated_fields get_form_kwargs
        """,
    "Override prepare_record(), or set readonly_fields.": "_extract_data",
    "Override prepare_record().": "_extract_tags _extract_value _value_map",
    "Override save_record() and tags().": "_set_tags",
    "Override delete_record().": """
        delete_model delete_queryset perform_destroy destroy
        """,
    "Override get_queryset(), or can_get().": """
        _get_record get_object queryset filter_queryset get_qs get_query
        """,
    "Override get_field_queryset().": """
        formfield_for_foreignkey formfield_for_manytomany formfield_for_dbfield
        formfield_for_choice_field formfield_overrides
        """,
    "Clients send pks. Override get_field_queryset() to limit what they may send.": """
        raw_id_fields autocomplete_fields
        """,
    "Set fields, or register an encoder.": """
        _encode_record _encode_data _encode_value serializer_class get_serializer_class
        get_serializer get_serializer_context to_representation to_dict html_escape
        """,
    "Set fields, exclude and readonly_fields in the endpoint itself.": """
        get_fields fieldsets get_fieldsets list_display get_list_display
        list_display_links get_list_display_links form_class get_form get_form_class
        model_fields model_config Meta Config
        """,
    "Name a method of the endpoint in fields.": """
        inlines get_inlines get_inline_instances get_formsets_with_inlines
        """,
    "Set exclude.": "get_exclude model_exclude",
    "Set readonly_fields. Override can_update() to decide by the user.": """
        get_readonly_fields list_editable
        """,
    "Set readonly_fields, or change the fields of the model.": "extra_kwargs",
    "Set expand.": """
        list_select_related get_list_select_related select_related prefetch_related
        """,
    "Set ordering.": "get_ordering",
    "Set sortable_by.": "get_sortable_by ordering_fields",
    "Set search_fields. Override get_queryset() to hide records.": """
        get_search_fields get_search_results
        """,
    "Set list_filter.": """
        get_list_filter filterset_fields filterset_class filter_backends filter_class
        filter_fields date_hierarchy
        """,
    "Set list_per_page and max_per_page.": """
        pagination_class paginate_by get_paginate_by paginate_queryset paginator
        paginator_class get_paginator page_size page_size_query_param max_page_size
        list_max_show_all default_limit max_limit
        """,
    "Clients send JSON or forms. To answer otherwise, return an HttpResponse.": """
        parser_classes renderer_classes
        """,
    "There are no versions. Write a new operation.": "versioning_class",
    "Remove it: the path is the app label and the name of the model.": "basename",
    "Set annotations.": "get_annotations",
    "Set operations.": """
        http_method_names allowed_methods list_allowed_methods detail_allowed_methods
        get_actions
        """,
    "Clients name a record by its pk. Override get_queryset() to hide records.": """
        lookup_field lookup_url_kwarg lookup_value_regex slug_field slug_url_kwarg
        pk_url_kwarg
        """,
    "Write an operation: a method whose only argument is request.": """
        __call__ as_view get_urls
        """,
}

#: Names that nothing asks either, but that are good names for an operation, a property,
#: or a method that takes a record.
_HOPEFUL_NAMES = {
    _ASK_AUTHENTICATE: """
        auth authenticated auth_required can_access login permission permissions
        require_auth require_login requires_login
        """,
    _NO_THROTTLING: "throttle",
    "Override can_create().": "can_insert",
    "Override can_get().": "can_retrieve can_see can_show",
    "Override can_list().": "can_browse can_index",
    "Override can_update().": "can_modify can_save can_write",
    "Override can_delete().": "can_destroy can_remove",
    "Set fields.": """
        allowed_fields form include include_fields only_fields public_fields serializer
        visible_fields
        """,
    "Set exclude.": """
        exclude_fields excluded_fields hidden_fields private_fields secret_fields
        """,
    "Let to_dict() of a registered encoder leave them out.": "write_only_fields",
    "Name a method of the endpoint in fields.": "extra_fields",
    "Set readonly_fields.": """
        editable_fields protected_fields read_only readonly uneditable_fields
        writable_fields
        """,
    "Set ordering.": "order_by orderby",
    "Set sortable_by.": "order_fields sort_fields sortable sortable_fields",
    "Set list_per_page and max_per_page.": "per_page",
    "Set expand.": "depth",
    "Set annotations.": "annotate annotated",
    "Set version_field.": "lock_field version version_column",
    "Set operations.": "allowed_actions allowed_operations methods",
    "Write it into the model's clean().": "clean full_clean",
    (
        'Raise ValidationError({"field": "..."}) in prepare_record(), or write the '
        "model's clean()."
    ): "validate",
}

#: The same for a form.
_UNASKED_NAMES_OF_FORMS = {
    "Override get_form_kwargs().": "form_kwargs",
    "Let the JavaScript of the page open the next page after the call.": """
        success_url get_success_url
        """,
}

#: The same for an encoder.
_UNASKED_NAMES_OF_ENCODERS = {
    "Override to_dict().": "__call__ to_representation _encode_value _value_map",
    "Override to_dict(), or set html_escape = True.": "_escape",
}


def _by_name(names_by_advice):
    """Return a table of names by advice as one of advice by name."""
    advice_by_name = {}
    for advice, names in names_by_advice.items():
        for name in names.split():
            advice_by_name[name] = advice
    return advice_by_name


_UNASKED = _by_name(_UNASKED_NAMES)
_HOPEFUL = _by_name(_HOPEFUL_NAMES)
_UNASKED_OF_FORMS = _by_name(_UNASKED_NAMES_OF_FORMS)
_UNASKED_OF_ENCODERS = _by_name(_UNASKED_NAMES_OF_ENCODERS)

#: The advice for a name that belongs to another kind of class than that it stands in.
_ADVICE_BY_BASE = {
    ModelEndpoint: "Set fields, or override a hook.",
    FormEndpoint: "Override authenticate() or get_form_kwargs(), or change the form.",
    DefaultEncoder: "Set it in the endpoint, or override to_dict().",
    BaseAuthentication: "Override is_authenticated().",
}


def _find_asked_names():
    """Return the names of all options and hooks, by the base class that has them."""
    # Operations and attributes of instances are neither options nor hooks.
    no_hooks = {*_OPERATIONS, "tags", "request", "user", "record"}
    names_by_base = {}
    for base in _ADVICE_BY_BASE:
        public_names = {name for name in dir(base) if not name.startswith("_")}
        names_by_base[base] = public_names - no_hooks
    return names_by_base


_ASKED_BY_BASE = _find_asked_names()
_ASKED_NAMES = sorted(set().union(*_ASKED_BY_BASE.values()))
#: Words that are one letter from a hook by accident.
_OTHER_WORDS = {"can_bet", "can_let", "can_lift", "can_set", "can_vet"}
#: Options of which a slip may also be a good name for a method: `field`, `operation`.
_ONE_WORD_OPTIONS = {"exclude", "expand", "fields", "operations", "ordering"}

#: The attributes that an instance has: an operation of that name would hide one.
_INSTANCE_NAMES = {
    "application",
    "command",
    "method",
    "model",
    "pk",
    "record",
    "request",
    "user",
}

#: The options by the type of their values.
_LIST_OPTIONS = (
    "fields", "exclude", "readonly_fields", "immutable_fields", "expand", "ordering",
    "sortable_by", "search_fields", "list_filter", "operations", "include",
)  # fmt: skip
_NUMBER_OPTIONS = ("list_per_page", "max_per_page")
_NAME_OPTIONS = ("version_field",)
_DICT_OPTIONS = ("annotations",)
_FLAG_OPTIONS = ("csrf_exempt", "html_escape", "require_permissions")
_TYPED_OPTIONS = (
    *_LIST_OPTIONS,
    *_NUMBER_OPTIONS,
    *_NAME_OPTIONS,
    *_DICT_OPTIONS,
    *_FLAG_OPTIONS,
)

#: The parameters of `list` that are no filters.
_LIST_PARAMETERS = ("items_per_page", "current_page", "order_by", "search")

_PROPERTIES = (property, cached_property, functools.cached_property)
_METHODS = (types.FunctionType, classmethod, staticmethod, functools.partialmethod)


class _Candidate:
    """A class that is to be registered, as the rules see it.

    `base` is the class of this file that it extends. `subject` is what is registered:
    the class, or an instance of it. `models` are all models that the class serves.
    """

    def __init__(self, base, subject, model=None, served=()):
        self.base = base
        self.subject = subject
        self.checked_class = subject if isinstance(subject, type) else type(subject)
        self.model = model
        self.models = []
        for item in served:
            if isinstance(item, type) and issubclass(item, models.Model):
                self.models.append(item)

    @cached_property
    def asked_names(self):
        """The options and hooks that classes of its kind have."""
        asked_names = set(_ASKED_BY_BASE[self.base])
        if issubclass(self.checked_class, IncludeEncoder):
            asked_names.add("include")
        if issubclass(self.checked_class, ExcludeEncoder):
            asked_names.add("exclude")
        return asked_names

    @cached_property
    def own_names(self):
        """The names that the project defines, each with its class and its value."""
        own_names = {}
        for owner in self.checked_class.__mro__:
            if owner.__module__ == __name__:
                continue
            for name, value in vars(owner).items():
                if name == "__call__" or not name.startswith("__"):
                    own_names.setdefault(name, (owner, name, value))
        return list(own_names.values())

    @cached_property
    def unasked_names(self):
        """Those among them that this file does not ask, and clients do not see."""
        unasked_names = []
        for owner, name, value in self.own_names:
            is_key = self.base is ModelEndpoint and self.names_in_fields(name)
            if name not in self.asked_names and not is_key:
                unasked_names.append((owner, name, value))
        return unasked_names

    @cached_property
    def own_hooks(self):
        """The hooks and operations among the own names."""
        own_hooks = []
        for owner, name, value in self.own_names:
            is_public = not name.startswith("_")
            if is_public and callable(getattr(self.base, name, None)):
                own_hooks.append((owner, name, value))
        return own_hooks

    def overrides(self, name):
        """Return whether the project defines a name."""
        return any(own_name == name for _owner, own_name, _value in self.own_names)

    def bind(self, value):
        """Return a value of the class as its instances have it."""
        if isinstance(value, _PROPERTIES) or not hasattr(value, "__get__"):
            return value
        return value.__get__(object(), self.checked_class)

    def names_in_fields(self, name):
        """Return whether `fields` lists a name."""
        fields = self.checked_class.fields
        return fields not in (None, "__all__") and name in fields

    def shows(self, name):
        """Return whether the endpoint shows a field of the model."""
        fields = self.checked_class.fields
        if name in self.checked_class.exclude:
            return False
        if fields is None and _is_user_model(self.model):
            return name == _public_name_field(self.model)
        if fields is None or fields == "__all__":
            return name != "password"
        return name in fields


def _refuse(candidate, rules):
    """Raise ImproperlyConfigured with the first thing that a rule finds."""
    for rule in rules:
        for owner, name, sentence in rule(candidate):
            place = f"{owner.__module__}.{owner.__name__}.{name}"
            raise ImproperlyConfigured(f"{place} {sentence}")


def _refuse_endpoint(base, endpoint_class, model, served):
    """Raise ImproperlyConfigured for an endpoint class that would be open, or do
    nothing, in silence."""
    candidate = _Candidate(base, endpoint_class, model, served)
    _refuse(candidate, _CLASS_RULES)
    if base is ModelEndpoint:
        _refuse(candidate, _MODEL_RULES)
    else:
        _refuse(candidate, _FORM_RULES)


def _refuse_encoder(encoder):
    """Raise ImproperlyConfigured for an encoder, or its class, that would show more
    than it says."""
    candidate = _Candidate(DefaultEncoder, encoder)
    _refuse(candidate, _CLASS_RULES)
    _refuse(candidate, _ENCODER_RULES)


@functools.lru_cache(maxsize=8)
def _refuse_authentication(authentication_class):
    """Raise ImproperlyConfigured for a class that would let the wrong users in."""
    _refuse(_Candidate(BaseAuthentication, authentication_class), _CLASS_RULES)


# Rules for every class


def _find_shadowed_names(candidate):
    """Find the hooks of a mixin that stands after the base class: those of the base
    class are called in their place, and narrow nothing."""
    ours = set()
    for owner in candidate.checked_class.__mro__:
        if owner.__module__ == __name__:
            ours.update(vars(owner))
            continue
        for name in vars(owner):
            if name in ours and not name.startswith("_"):
                bases = [owner.__name__]
                for base in candidate.checked_class.__bases__:
                    if base is not owner:
                        bases.append(base.__name__)
                definition = f"{candidate.checked_class.__name__}({', '.join(bases)})"
                sentence = f"is never reached. Write class {definition}."
                yield owner, name, sentence


def _find_unasked_names(candidate):
    """Find names of other packages: what they are to forbid would be allowed."""
    advise = _ADVISERS[candidate.base]
    for owner, name, value in candidate.unasked_names:
        advice = advise(candidate, name, value)
        if advice:
            yield owner, name, f"has no effect. {advice}"


def _advise_endpoint(candidate, name, value):
    """Return what to do instead of a name that nothing asks, None for other names."""
    if name in _UNASKED:
        return _UNASKED[name]
    if like := _find_unasked_like(candidate, name, value):
        return _UNASKED[like]
    if re.fullmatch("has_.*_permissions?", name):
        return "Override can_create(), can_get(), can_update() or can_delete()."
    if name in _HOPEFUL and not _has_use(candidate, name, value):
        return f"{_HOPEFUL[name]} If it is your own helper, give it another name."
    return None


def _advise_form(candidate, name, value):
    """Return the same for a FormEndpoint."""
    if name in _UNASKED_OF_FORMS:
        return _UNASKED_OF_FORMS[name]
    advice = _advise_endpoint(candidate, name, value)
    if advice and not advice.startswith(_ADVICE_FOR_FORMS):
        return _ADVICE_BY_BASE[FormEndpoint]
    return advice


def _advise_encoder(candidate, name, value):
    """Return the same for an encoder."""
    return _UNASKED_OF_ENCODERS.get(name)


def _advise_authentication(candidate, name, value):
    """Return None: a class that says who may call can have any other name."""


_ADVISERS = {
    ModelEndpoint: _advise_endpoint,
    FormEndpoint: _advise_form,
    DefaultEncoder: _advise_encoder,
    BaseAuthentication: _advise_authentication,
}


def _find_unasked_like(candidate, name, value):
    """Return the name in `_UNASKED` that is meant by a name in camelCase, or by the
    singular or plural of a long one."""
    text = _squeeze(name)
    # The plural of a short name, such as `paginators`, may be a name of the project's.
    least_length = 17 if isinstance(value, (*_METHODS, *_PROPERTIES)) else 12
    for unasked in _UNASKED:
        is_one_word = "_" not in unasked
        if is_one_word or unasked.startswith("_") or unasked in candidate.asked_names:
            continue
        other = _squeeze(unasked)
        differs_in_number = text.rstrip("es") == other.rstrip("es")
        if text == other or (differs_in_number and len(other) >= least_length):
            return unasked
    return None


def _has_use(candidate, name, value):
    """Return whether a project can use a value in its endpoint: as an operation, a
    property, or a method that takes the record."""
    if name == "validate":  # Serializers and forms have such a method of one argument.
        return _is_operation(value)
    if isinstance(value, _PROPERTIES):
        return True
    method = candidate.bind(value) if isinstance(value, _METHODS) else None
    if method is None or not _takes_one(method):
        return False
    return "user" not in _read_signature(method).parameters


def _find_names_of_other_kinds(candidate):
    """Find options and hooks that only another kind of class has: a FormEndpoint with
    `can_create` would be open."""
    if candidate.base is ModelEndpoint:
        return  # They are among the unasked names.
    if candidate.overrides("to_dict") or candidate.overrides("is_authenticated"):
        return  # Its own code may use any attribute.
    for owner, name, _value in candidate.unasked_names:
        if name in _ASKED_NAMES or name == "include":
            advice = _ADVICE_BY_BASE[candidate.base]
            yield owner, name, f"has no effect here. {advice}"


def _find_taken_names(candidate):
    """Find names that this file uses itself: an operation would take the place of the
    machinery, and of the questions that it asks."""
    for owner, name, value in candidate.own_names:
        is_changeable = name in ("record", "user") and isinstance(value, property)
        is_method = isinstance(value, (*_METHODS, property))
        if _is_internal(candidate.checked_class, name):
            sentence = "has a name that the base class uses. Choose another one."
            yield owner, name, sentence
        elif name in _INSTANCE_NAMES and is_method and not is_changeable:
            sentence = "has the name of an attribute of each instance. Choose another."
            yield owner, name, sentence


def _is_internal(checked_class, name):
    """Return whether a base class of this module has a name for its own use."""
    if not name.startswith("_") or name.endswith("__"):
        return False
    for base in checked_class.__mro__:
        if base.__module__ == __name__ and name in vars(base):
            return True
    return False


def _find_slips(candidate):
    """Find names that are one slip from an option or a hook: the usual one would stay
    in force, and that is open."""
    for owner, name, value in candidate.unasked_names:
        if name in _ASKED_NAMES or name in _HOPEFUL or name in _OTHER_WORDS:
            continue
        meant = _find_meant(name, value)
        if meant:
            sentence = (
                f"has no effect. Did you mean {meant}? If the name is your own, choose "
                "one that differs more."
            )
            yield owner, name, sentence


def _find_meant(name, value):
    """Return the option or hook that a name is one slip from, None if there is none."""
    is_method = isinstance(value, (*_METHODS, *_PROPERTIES))
    for asked in _ASKED_NAMES:
        if _squeeze(name) == _squeeze(asked):
            return asked
        # A method called `field` or `operation` is not meant as an option.
        is_other_word = is_method and asked in _ONE_WORD_OPTIONS
        if not is_other_word and _is_slip(name, asked):
            return asked
    return None


def _squeeze(name):
    """Return a name without what snake_case and camelCase differ in."""
    return name.replace("_", "").lower()


def _is_slip(name, asked):
    """Return whether a name is one slip from a name that is asked."""
    if name.startswith("_"):
        return False
    text = _squeeze(name)
    other = _squeeze(asked)
    if _is_one_letter_off(text, other):
        return True
    return len(other) >= 14 and _find_close(text, [other], 0.9) is not None


def _is_one_letter_off(text, other):
    """Return whether texts differ by one letter that is added, missing, or wrong, or by
    two that are swapped."""
    while text and other and text[0] == other[0]:
        text, other = text[1:], other[1:]
    while text and other and text[-1] == other[-1]:
        text, other = text[:-1], other[:-1]
    if len(text) == len(other) == 2:
        return text == other[::-1]
    return len(text) <= 1 and len(other) <= 1


def _find_wrong_options(candidate):
    """Find options with a value of the wrong type. To Python, ("author") is a text: as
    a list of names, it would close only fields with names of one letter."""
    for name in _TYPED_OPTIONS:
        if name in candidate.asked_names and hasattr(candidate.subject, name):
            value = getattr(candidate.subject, name)
            usual_value = getattr(candidate.base, name, ())
            problem = _find_wrong_type(name, value, usual_value)
            if problem:
                yield candidate.checked_class, name, problem


def _find_wrong_type(name, value, usual_value):
    """Return what is wrong with the value of an option, None if nothing is."""
    if value is None and usual_value is None:
        return None
    advice = ""
    if name in _FLAG_OPTIONS:
        wanted = "True or False"
        is_right = isinstance(value, bool)
    elif name in _NUMBER_OPTIONS:
        wanted = "a number from 1"
        is_right = _is_page_size(value)
    elif name in _NAME_OPTIONS:
        wanted = "the name of a field"
        is_right = isinstance(value, str)
    elif name in _DICT_OPTIONS:
        wanted = "a dict of expressions by name"
        is_right = isinstance(value, Mapping)
    else:
        wanted = "a list of names"
        is_other = isinstance(value, (str, bytes, Mapping))
        is_right = isinstance(value, Collection) and not is_other
        is_levels = name == "expand" and isinstance(value, int)
        is_right = is_right or is_levels or (name, value) == ("fields", "__all__")
        if isinstance(value, str):
            advice = _advise_list(value)
    return None if is_right else _describe_mismatch(value, wanted) + advice


def _is_page_size(value):
    """Return whether a value is a number of records that a page can have."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _advise_list(text):
    """Return the sentence that says which list to write in the place of a text."""
    if text == "__all__":
        return " Name the fields."
    names = re.findall(r"[^\s,]+", text)
    return f" Write {names}."


def _describe_mismatch(value, wanted):
    """Return the end of a sentence about a value that is not what is wanted."""
    if isinstance(value, str):
        return f"is the text {value!r} instead of {wanted}."
    if value is None or isinstance(value, int):
        return f"is {value} instead of {wanted}."
    return f"is a {type(value).__name__} instead of {wanted}."


def _find_values_for_hooks(candidate):
    """Find hooks that are no methods: they would fail, or a class would be called and
    its instance would count as yes."""
    for owner, name, value in candidate.own_hooks:
        hook = candidate.bind(value)
        if isinstance(hook, type) or not callable(hook):
            wanted = f"a method, {_write_definition(candidate.base, name)}"
            yield owner, name, _describe_mismatch(value, wanted)


def _write_definition(base, name):
    """Return the first line of a hook as it is to be written."""
    names = ", ".join(["self", *_find_arguments(base, name)])
    return f"def {name}({names})"


def _find_arguments(base, name):
    """Return the names of the arguments that a hook of a base class gets."""
    parameters = list(inspect.signature(getattr(base, name)).parameters.values())
    return [item.name for item in parameters[1:] if item.default is item.empty]


def _find_async_hooks(candidate):
    """Find hooks that are async or generators: nothing waits for them, and what they
    return would count as yes."""
    for owner, name, value in candidate.own_hooks:
        hook = candidate.bind(value)
        is_async = iscoroutinefunction(hook) or inspect.isasyncgenfunction(hook)
        is_waited_for = name in (*_OPERATIONS, "tags")
        if is_waited_for or not (is_async or inspect.isgeneratorfunction(hook)):
            continue
        kind = "async" if is_async else "a generator"
        definition = _write_definition(candidate.base, name)
        sentence = (
            f"is {kind}: nothing waits for its answer, which would count as yes. "
            f"Write {definition}."
        )
        yield owner, name, sentence


def _find_wrong_parameters(candidate):
    """Find hooks that cannot be called with what they get, or take the user for the
    record: `can_get(self, record)` would ask `user.is_active`."""
    for owner, name, value in candidate.own_hooks:
        arguments = _find_arguments(candidate.base, name)
        signature = _fit_signature(candidate.bind(value), name, arguments)
        if signature is None or _has_swapped_names(
            candidate.model, signature, arguments
        ):
            definition = _write_definition(candidate.base, name)
            called = ", ".join(arguments)
            sentence = f"is called with ({called}). Write {definition}."
            yield owner, name, sentence


#: The hooks that allow a write.
_WRITE_HOOKS = {
    operation.hook for operation in _OPERATIONS.values() if operation.permission
}


def _fit_signature(hook, name, arguments):
    """Return the signature of a hook, None if it cannot be called with these arguments.

    The hooks that allow a write may take fewer, as those of the old package did.
    """
    modified = {}
    if name in _WRITE_HOOKS:
        if arguments[-1] == "modified":
            arguments, modified = arguments[:-1], {"modified": "modified"}
        arguments, modified = _fit_arguments(hook, arguments, modified)
    try:
        signature = _find_signature(hook)
        signature.bind(*arguments, **modified)
    except (TypeError, ValueError):
        return None
    return signature


def _has_swapped_names(model, signature, arguments):
    """Return whether a parameter has the usual name of another argument."""
    usual_names = {name: {name} for name in (*arguments, "user", "request")}
    record_names = {"record", "obj", "object", "instance"}
    if isinstance(model, type):
        record_names.add(model.__name__.lower())
    usual_names["record"] = record_names
    usual_names["modified"] = {"modified", *record_names}
    names = []
    for parameter in signature.parameters.values():
        if parameter.kind <= parameter.POSITIONAL_OR_KEYWORD:
            names.append(parameter.name)
    for argument, name in zip(arguments, names, strict=False):
        if name not in usual_names[argument]:
            if any(name in other_names for other_names in usual_names.values()):
                return True
    return False


_CLASS_RULES = (
    _find_wrong_options,
    _find_shadowed_names,
    _find_unasked_names,
    _find_names_of_other_kinds,
    _find_taken_names,
    _find_slips,
    _find_values_for_hooks,
    _find_async_hooks,
    _find_wrong_parameters,
)


# Rules for endpoints of models


def _find_old_exclude(candidate):
    """Find the old package's `__exclude__` of a model: its fields would be shown."""
    for owner in candidate.model.__mro__:
        if "__exclude__" in vars(owner):
            sentence = "has no effect. Set exclude, or register an ExcludeEncoder."
            yield owner, "__exclude__", sentence


def _find_reverse_relations(candidate):
    """Find reverse relations in `fields` that are no children: their records would be
    shown whoever may see them."""
    if candidate.checked_class.fields in (None, "__all__"):
        return  # Do not look for relations: their models may not be loaded yet.
    for relation in candidate.model._meta.related_objects:
        for name in (relation.name, relation.get_accessor_name()):
            if _find_child_relation(candidate.model, name) is not None:
                continue
            if candidate.names_in_fields(name) and not candidate.overrides(name):
                sentence = f"names {name}, a reverse relation: name a method instead."
                yield candidate.checked_class, "fields", sentence


def _find_no_values(candidate):
    """Find names in `fields` that are no values of a record: to show `delete` would
    delete it."""
    generic_relations = []
    for field in candidate.model._meta.private_fields:
        if field.one_to_many:
            generic_relations.append(field.name)
    for name in _as_list(candidate.checked_class.fields or []):
        if not isinstance(name, str) or name in _model_fields(candidate.model):
            continue
        value = getattr(candidate.model, name, None)
        changes_data = getattr(value, "alters_data", False)
        is_of_django = hasattr(models.Model, name) and name != "pk"
        is_rows = isinstance(value, models.Manager) or name in generic_relations
        if changes_data or is_of_django or (is_rows and not candidate.overrides(name)):
            sentence = f"names {name!r}, which is no value of a record. Remove it."
            yield candidate.checked_class, "fields", sentence


def _find_bad_annotations(candidate):
    """Find annotations that would hide a name of the model, or cannot be asked."""
    endpoint_class = candidate.checked_class
    for name, expression in endpoint_class.annotations.items():
        problem = _find_wrong_annotation(candidate, name, expression)
        if problem:
            yield endpoint_class, "annotations", f"has {name!r}, {problem}"
    try:
        _Annotations(candidate.model, endpoint_class)
    except core_exceptions.FieldError as error:
        reason = str(error).rstrip(".")
        yield endpoint_class, "annotations", f"cannot be queried: {reason}."


def _find_repeating_annotations(candidate):
    """Find annotations that give several rows for one record."""
    endpoint_class = candidate.checked_class
    annotations = _Annotations(candidate.model, endpoint_class)
    for name, expression in annotations.given.items():
        if name not in annotations.static:
            continue
        if annotations.static[name] is not expression:
            continue  # An aggregate gives one value for each record.
        if _repeats_rows(candidate.model, expression):
            sentence = (
                f"has {name!r}, which gives several values for one record. Use an "
                "aggregate, such as Count, or a Subquery."
            )
            yield endpoint_class, "annotations", sentence


def _find_wrong_annotation(candidate, name, expression):
    """Return what is wrong with the name or the kind of an annotation, None if nothing
    is."""
    if not isinstance(name, str) or not name.isidentifier():
        return "which is no name. Choose another name."
    if hasattr(candidate.model, name) or _defines(candidate.checked_class, name):
        return "the name of an attribute. Choose another name."
    if isinstance(expression, type):
        return f"a class. Write an expression, such as {expression.__name__}(...)."
    if hasattr(expression, "resolve_expression"):
        return None
    if not callable(expression):
        return 'which is no expression. Write one, such as Count("comments").'
    if iscoroutinefunction(expression):
        return "an async function, which nothing waits for. Write a plain one."
    if not _takes_one(expression):
        return "a function that is called with (request). Let it take request."
    public_name = _find_public_name(expression)
    if public_name:
        return f"a function that everybody can call. Rename it to _{public_name}."
    return None


def _find_public_name(function):
    """Return the name under which a function of an endpoints.py is an endpoint, too;
    None if it is none."""
    module = sys.modules.get(getattr(function, "__module__", None))
    if module is None or not module.__name__.endswith(".endpoints"):
        return None
    for name in _find_exposed_names(module):
        if getattr(module, name, None) is function and not name.startswith("_"):
            return name
    return None


def _repeats_rows(model, expression):
    """Return whether an expression names a field behind a relation to many records."""
    from django.contrib.admin.utils import lookup_spawns_duplicates

    if isinstance(expression, F) and not isinstance(expression, OuterRef):
        return lookup_spawns_duplicates(model._meta, expression.name)
    if isinstance(expression, Q):
        expressions = []
        for child in expression.children:
            is_pair = isinstance(child, tuple)
            if is_pair and lookup_spawns_duplicates(model._meta, child[0]):
                return True
            expressions.append(child[1] if is_pair else child)
    elif isinstance(expression, Subquery):
        return False  # Its names are of another model.
    else:
        get_expressions = getattr(expression, "get_source_expressions", list)
        expressions = get_expressions()
    return any(_repeats_rows(model, inner) for inner in expressions)


def _find_hidden_version(candidate):
    """Find a version that clients do not see, or that no change changes. Every update
    would be accepted."""
    endpoint_class = candidate.checked_class
    name = endpoint_class.version_field
    if name is None:
        return
    columns = {field.name: field for field in candidate.model._meta.concrete_fields}
    visible = _find_visible_names(candidate.model, endpoint_class)
    field = columns.get(name)
    if field is None:
        advice = _NameRules(candidate.model, endpoint_class).suggest(name)
        sentence = f"names {name!r}, which is no column of the model. {advice}"
        yield endpoint_class, "version_field", sentence
    elif name not in visible:
        sentence = f"names {name!r}, which clients do not see. Add it to fields."
        yield endpoint_class, "version_field", sentence
    elif getattr(field, "auto_now_add", False) and not field.auto_now:
        sentence = (
            f"names {name!r}, which stays as it was when the record was created. Name "
            "a column that every save changes, such as one with auto_now."
        )
        yield endpoint_class, "version_field", sentence


def _find_unknown_names(candidate):
    """Find misspelt names in options that close something: the fields that they mean
    would stay open.

    What a base class names may be of another model: only the checks look at that.
    """
    rules = []
    for model in candidate.models:
        rules.append(_NameRules(model, candidate.checked_class))
    labels = " or ".join(_label(model) for model in candidate.models)
    for attribute in ("fields", "exclude", "readonly_fields", "immutable_fields"):
        names = vars(candidate.checked_class).get(attribute) or ()
        for name in names if names != "__all__" else ():
            if not any(rule.accepts(attribute, name) for rule in rules):
                advice = rules[0].suggest(name)
                sentence = f"names {name!r}, which {labels} does not have. {advice}"
                yield candidate.checked_class, attribute, sentence


def _find_masks(candidate):
    """Find methods and properties with the name of a field that is shown: they are to
    mask it, but the raw value would be shown."""
    fields = _model_fields(candidate.model)
    for owner, name, value in candidate.own_names:
        if name not in fields or hasattr(ModelEndpoint, name):
            continue
        is_helper = inspect.isfunction(value) and not _takes_one(value, "self")
        if candidate.shows(name) and not is_helper and not _is_operation(value):
            sentence = (
                f"changes nothing: the field {name} itself is shown. Give the method "
                f"another name. Add that name to fields, and {name} to exclude."
            )
            yield owner, name, sentence


def _find_wrong_extras(candidate):
    """Find methods that `fields` names, but that cannot be called with a record."""
    keys = {*_model_fields(candidate.model), *_pk_names(candidate.model)}
    for owner, name, value in candidate.own_names:
        is_method = isinstance(value, _METHODS) and not hasattr(ModelEndpoint, name)
        is_shown = candidate.names_in_fields(name) and candidate.shows(name)
        if is_method and is_shown and name not in keys:
            method = candidate.bind(value)
            if not _takes_one(method) or iscoroutinefunction(method):
                yield owner, name, f"is shown, so write def {name}(self, record)."


def _find_validators(candidate):
    """Find methods that are to validate a field, as those of forms and serializers do:
    any value would be stored."""
    for owner, name, value in candidate.own_names:
        prefix, _underscore, field_name = name.partition("_")
        if prefix not in ("clean", "validate") or _is_operation(value):
            continue
        if field_name in _model_fields(candidate.model):
            sentence = "has no effect. Write it into the model's clean()."
            yield owner, name, sentence


def _find_optional_records(candidate):
    """Find operations with an optional parameter for the pk or the record of the path:
    they are called without it."""
    operations = _operations(candidate.checked_class)
    for owner, name, value in candidate.own_names:
        is_plain = inspect.isfunction(value) and not hasattr(value, "_parameters")
        if name not in operations or not is_plain:
            continue
        definition = f"@ajax.validated def {name}(self, request, record)"
        if name in _OPERATIONS:
            definition = f"def {name}(self, request)"
        for parameter in _read_signature(inspect.unwrap(value)).parameters:
            if parameter in ("pk", "record"):
                sentence = f"is called without {parameter}. Write {definition}."
                yield owner, name, sentence


def _find_passwords(candidate):
    """Find `password` in the fields of a user model: what clients send would be stored
    as it is, not as a hash."""
    is_named = candidate.names_in_fields("password")
    if is_named and _is_user_model(candidate.model):
        sentence = (
            "names password, which would be stored and shown as it is. Write an "
            "operation, or register a form, that calls set_password()."
        )
        yield candidate.checked_class, "fields", sentence


def _find_password_paths(candidate):
    """Find lists that search, filter or sort by a password that is not shown: whoever
    may ask often learns it, letter by letter."""
    for option in ("list_filter", "search_fields", "sortable_by"):
        for path_name in getattr(candidate.checked_class, option):
            names = str(path_name).lstrip("^=@-").split("__")
            is_shown = names[0] == "password" and candidate.names_in_fields("password")
            if "password" in names and not is_shown:
                sentence = (
                    f"names {path_name!r}, by which clients could find out the "
                    "password. Remove it."
                )
                yield candidate.checked_class, option, sentence


def _find_hidden_filters(candidate):
    """Find filters with the name of another parameter of `list`: they would filter
    nothing."""
    managers = []
    for name, field in _model_fields(candidate.model).items():
        if _is_tags_manager(field):
            managers.append(name)
    for name in candidate.checked_class.list_filter:
        if name in _LIST_PARAMETERS:
            sentence = (
                f"names {name!r}, which is another parameter of list. Write "
                f"'{name}__exact'."
            )
            yield candidate.checked_class, "list_filter", sentence
        elif name in managers:
            sentence = f"names {name!r}, but list takes tags anyway. Remove it."
            yield candidate.checked_class, "list_filter", sentence


def _find_impossible_tags(candidate):
    """Find managers of tags whose rows cannot hold the pk of a record: every call would
    fail."""
    for name, field in _model_fields(candidate.model).items():
        if not _is_tags_manager(field) or not candidate.shows(name):
            continue
        key_field = _Tags.find_key(field)
        if not _can_hold(key_field, _root_key(candidate.model)):
            sentence = (
                f"keeps the pk in a column of type {type(key_field).__name__}, which "
                "cannot hold it. Write TaggableManager(through=...), with a model such "
                "as one that extends taggit's GenericUUIDTaggedItemBase."
            )
            yield candidate.model, name, sentence


def _can_hold(field, pk):
    """Return whether a field can hold the values of a primary key."""
    if isinstance(field, _TEXT_FIELDS) or field.is_relation:
        return True
    kinds = set()
    for key in (field, pk):
        is_integer = key.get_internal_type().endswith(("IntegerField", "AutoField"))
        kinds.add("integer" if is_integer else key.get_internal_type())
    return len(kinds) == 1


_MODEL_RULES = (
    _find_old_exclude,
    _find_reverse_relations,
    _find_no_values,
    _find_unknown_names,
    _find_masks,
    _find_wrong_extras,
    _find_validators,
    _find_optional_records,
    _find_passwords,
    _find_password_paths,
    _find_hidden_filters,
    _find_impossible_tags,
    _find_bad_annotations,
    _find_repeating_annotations,
    _find_hidden_version,
)


# Rules for endpoints of forms

#: The methods in which a ModelForm may make a hash of a password, or drop the field.
_METHODS_FOR_PASSWORDS = ("__init__", "clean", "clean_password", "_post_clean", "save")


def _find_form_passwords(candidate):
    """Find ModelForms that would store the password of a user as it is sent, not as a
    hash, such as one with `fields = "__all__"`."""
    form_class = candidate.model
    field = form_class.base_fields.get("password")
    if field is None or field.disabled or not _writes_users(form_class, "password"):
        return
    for name in _METHODS_FOR_PASSWORDS:
        usual_method = getattr(forms.ModelForm, name, None)
        if getattr(form_class, name, None) is not usual_method:
            return
    sentence = (
        "would be stored as it is sent. Leave it out of the form, or override save() "
        "to call set_password()."
    )
    yield form_class, "password", sentence


def _writes_users(form_class, name):
    """Return whether a form writes a field of a user model."""
    if not issubclass(form_class, forms.BaseModelForm):
        return False
    options = form_class._meta
    if not _is_user_model(options.model) or name in (options.exclude or ()):
        return False
    return options.fields is None or name in options.fields


_FORM_RULES = (_find_form_passwords,)


# Rules for encoders


def _find_old_parameters(candidate):
    """Find parameters of `to_dict` that only the old package passed: passing them on
    would fail."""
    for owner, name, value in candidate.own_names:
        if name != "to_dict":
            continue
        for parameter in _find_signature(candidate.bind(value)).parameters:
            if parameter in ("expand", "fields"):
                sentence = (
                    f"has a parameter {parameter}, which nothing passes. Write "
                    "to_dict(self, record, **options), and set expand and fields in "
                    "the endpoint."
                )
                yield owner, name, sentence


_ENCODER_RULES = (_find_old_parameters,)


# --- The apps' endpoints.py -----------------------------------------------------------


class _Discovery:
    """The ad-hoc endpoints of all apps, found once, on first use.

    If an endpoints.py fails, the registries are put back as they were before: half of
    the endpoints would be wrong.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.is_started = False
        #: The name of the module that failed, None if all were imported and a class in
        #: them is wrong; and the exception.
        self.error = None
        #: By (app label, name).
        self.functions = {}

    def run(self):
        """Import every app's endpoints.py; raise ImproperlyConfigured if one fails."""
        with self.lock:  # Other threads wait; an endpoints.py may get here again.
            if not self.is_started:
                apps.check_apps_ready()  # Else nothing would be found, for good.
                self.is_started = True
                self._import_all()
        if self.error:
            raise ImproperlyConfigured(self._describe_error()) from self.error[1]

    def _import_all(self):
        registries = (endpoint, encoder)
        contents = [_copy_contents(registry) for registry in registries]
        try:
            for config in apps.get_app_configs():
                module_name = f"{config.name}.endpoints"
                self.functions.update(_import_functions(config))
            module_name = None
            self._check_served_models()
        except BaseException as error:
            self.error = (module_name, error)
            for registry, content in zip(registries, contents, strict=True):
                vars(registry).update(content)
            _forget_plans()
            if not isinstance(error, Exception):
                raise

    def _check_served_models(self):
        """Raise _UnservedModel for records of a model that no endpoint serves, but a
        validated function takes or a record shows as its children."""
        for function in self.functions.values():
            _check_parameters(function.parameters)
        for model, endpoint_class in endpoint._registry.items():
            if issubclass(endpoint_class, ModelEndpoint):
                for name in _operations(endpoint_class):
                    method = getattr(endpoint_class, name)
                    _check_parameters(getattr(method, "_parameters", None))
                _check_children(model, endpoint_class)

    def _describe_error(self):
        """Return a sentence about the endpoints.py that failed, with file and line."""
        module_name, error = self.error
        file, line = _find_failed_line(error)
        if module_name is None:
            return f"{str(error).removesuffix('.')} ({file}, line {line})."
        message = f"{type(error).__name__}: {getattr(error, 'msg', error)}"
        return f"{module_name} cannot be imported: {message} ({file}, line {line})."


class _UnservedModel(ImproperlyConfigured):
    """An endpoint has records of a model that no endpoint serves."""

    def __init__(self, message, model, place):
        """`place` is the function or class whose author is to look."""
        super().__init__(f"{message} {_advise_serving(model)}")
        self.filename = inspect.getsourcefile(place)
        self.lineno = inspect.getsourcelines(place)[1]


def _advise_serving(model):
    """Return what to do so that an endpoint offers `get` of a model."""
    if endpoint.has(model):
        return f'Add "get" to operations of {endpoint.find(model).__name__}.'
    return f"Register {_label(model)}."


def _check_parameters(parameters):
    if parameters is not None:
        for model in parameters.find_unserved():
            function = parameters.function
            message = f"{_full_name(function)} takes records of a model that no "
            message += "endpoint serves."
            raise _UnservedModel(message, model, function)


def _check_children(model, endpoint_class):
    fields = endpoint_class.fields
    for name in () if fields in (None, "__all__") else fields:
        relation = _find_child_relation(model, name)
        if relation is not None:
            child = relation.related_model
            child_class = endpoint.find(child)
            operations = child_class.operations
            offers_get = operations is None or "get" in operations
            if not endpoint.has(child) or not offers_get:
                message = f"{endpoint_class.__name__}.fields names {name}, records of "
                message += f"{child.__name__}, but no endpoint offers their get."
                raise _UnservedModel(message, child, endpoint_class)


def _copy_contents(registry):
    return {name: dict(content) for name, content in vars(registry).items()}


def _find_failed_line(error):
    """Return the file and the line of an endpoints.py at which an import failed."""
    if isinstance(error, (SyntaxError, _UnservedModel)):
        return error.filename, error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    failed = frames[-1]
    for frame in frames:
        if frame.filename.endswith("endpoints.py"):
            failed = frame
    return failed.filename, failed.lineno


def _import_endpoints(config):
    """Import an app's endpoints.py; return the module, None if there is none."""
    if not module_has_submodule(config.module, "endpoints"):
        return None
    module = importlib.import_module(f"{config.name}.endpoints")
    if module is sys.modules[__name__]:
        return None  # By the old import path, this file is its own `endpoints`.
    return module


def _import_functions(config):
    """Return the ad-hoc endpoints of an app, by label and name."""
    module = _import_endpoints(config)
    if module is None:
        return {}
    functions = {}
    for name in _find_exposed_names(module):
        value = getattr(module, name)
        is_function = callable(value) and not isinstance(value, type)
        if is_function and not name.startswith("_") and not _wants_more(value):
            functions[config.label, name] = _Function(value)
    return functions


def _find_exposed_names(module):
    """Return the names in `__all__` of a module, else those of its endpoints."""
    if hasattr(module, "__all__"):
        return module.__all__
    values = vars(module).items()
    return [name for name, value in values if _is_exposed(value, module)]


def _is_exposed(value, module):
    """Return whether a value of a module is an endpoint: an instance of BaseEndpoint,
    or a function of a request that the module defines."""
    function = inspect.unwrap(value) if callable(value) else value
    if not inspect.isfunction(function):
        is_endpoint = isinstance(function, BaseEndpoint) and callable(function)
        return is_endpoint and not _wants_more(value)
    if value.__module__ != module.__name__:
        return False
    return hasattr(value, "_parameters") or _takes_request(value)


_discovery = _Discovery()


def _autodiscover():
    """Import every app's endpoints.py once; raise ImproperlyConfigured if one fails."""
    _discovery.run()


# --- Dispatch -------------------------------------------------------------------------


class _CsrfCheck(CsrfViewMiddleware):
    """Django's check, run by the view, so that its refusal can be JSON.

    `_reject` is private API: there Django makes an HTML page of the reason.
    """

    def _reject(self, request, reason):
        return reason


def _check_csrf(request, view):
    """Raise AJAXError 403 with a new token, unless the request has a right one."""
    _read_csrf_cookie(request)
    reason = _CsrfCheck(dispatch).process_view(request, view, (), {})
    if not reason:
        return
    if reason.startswith(("Origin", "Referer")):
        raise AJAXError(403, reason, csrf=True)
    advice = _(
        'Send the value of the cookie %(cookie)s, or of "csrf" in this reply, in the '
        "header %(header)s."
    )
    advice %= {"cookie": settings.CSRF_COOKIE_NAME, "header": _get_header_name()}
    raise AJAXError(403, f"{reason} {advice}", csrf=get_token(request))


def _read_csrf_cookie(request):
    """Read the token of the browser's cookie, unless a middleware has read it."""
    if "CSRF_COOKIE" not in request.META:
        _CsrfCheck(dispatch).process_request(request)


def _get_header_name():
    """Return the name of the header for the CSRF token, as clients write it."""
    name = settings.CSRF_HEADER_NAME.removeprefix("HTTP_")
    if name == "X_CSRFTOKEN":
        return "X-CSRFToken"
    return name.replace("_", "-").title()


def _keep_csrf_cookie(request, response):
    """Set the CSRF cookie if it changed, as at a login, and no middleware will."""
    if request.META.get("CSRF_COOKIE_NEEDS_UPDATE"):
        return _CsrfCheck(dispatch).process_response(request, response)
    return response


def _check_request(request):
    """Raise AJAXError 405 unless it is a POST, 400 if its headers make no sense."""
    if request.method != "POST":
        raise AJAXError(405, _("Send a POST request, with the parameters in its body."))
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or len(length) > 18:
        raise AJAXError(400, _("The Content-Length is not a number."))
    # Some of Python's codecs are not for text, and some are very slow.
    if (request.encoding or "utf-8").lower() not in ("utf-8", "utf8"):
        raise AJAXError(400, _("Send the body in UTF-8, as browsers do."))


def _resolve(
    request,
    app=None,
    name=None,
    model=None,
    pk=None,
    operation=None,
    tags=None,
    command=None,
):
    """Return the endpoint at a path, with its operation.

    Raise AJAXError 404 if there is no such endpoint or operation.
    """
    _autodiscover()
    if request.path_info.endswith(".json.json"):
        hint = _hint("Leave .json off: the path has it twice.")
        raise AJAXError(404, _("There is no such endpoint."), **hint)
    function = _discovery.functions.get((app, name))
    if function is not None:
        return function
    served = endpoint._paths.get((FormEndpoint, app, name))
    if served is None:
        served = endpoint._paths.get((ModelEndpoint, app, name or model))
    if served is None:
        raise _missing(_("There is no such endpoint."), f"{app}/{name or model}")
    method = tags or operation or "create"
    served_class = endpoint._registry[served]
    # A constructor of the project's may pass these two on as its **kwargs.
    resolved = served_class(app, served, method, pk=pk, command=command)
    resolved._operation = resolved._find_operation()
    run = getattr(resolved, resolved._operation.method_name)
    if getattr(run, "csrf_exempt", False):
        resolved.csrf_exempt = True
    return resolved


def _missing(message, sent, names=None):
    """Return the AJAXError 404 for a name that is not there; in DEBUG with what is."""
    if not settings.DEBUG:
        return AJAXError(404, message)
    if names is None:
        if hint := _explain_unexposed(*sent.split("/")):
            return AJAXError(404, message, hint=hint)
        names = {"/".join(pair) for pair in _discovery.functions}
        for _base, label, name in endpoint._paths:
            names.add(f"{label}/{name}")
    close = _find_close(sent.lower(), names, 0.75)
    if close:
        return AJAXError(404, message, hint=f"Did you mean {close}?")
    known = ", ".join(sorted(names)[:_MAX_EXPLAINED_KEYS])
    return AJAXError(404, message, hint=f"These names exist: {known or 'none'}.")


@csrf_exempt
@login_not_required
def dispatch(request, names, **captured):
    """Answer a request: resolve its path, check CSRF, authorize, read its body, run.

    `names` are those of the path's own segments: the mount's path may capture others.
    """
    try:
        if names:
            _check_request(request)
        segments = {name: captured[name] for name in names}
        resolved = _resolve(request, **segments)
        _check_csrf(request, resolved)
        resolved._authorize(request)
        _read_body(request)
        with contextlib.ExitStack() as stack:
            locks = not resolved._operation.reads
            _enter_atomic_requests(stack, resolved, locks)
            response = _success_response(resolved._run(request), request)
    except Exception as error:
        _remove_uploads(request)
        response = _error_response(request, error)
    return _keep_csrf_cookie(request, response)


dispatch._non_atomic_requests = _EveryAlias()


# --- For the page ---------------------------------------------------------------------


@csrf_exempt
@login_not_required
@json_response
def _serve_page_text(request, name, **_mount):
    """Serve client.js to everybody, the explorer in DEBUG and to active staff."""
    if request.method not in ("GET", "HEAD"):
        response = AJAXError(405, _("Send a GET request.")).get_response()
        response["Allow"] = "GET, HEAD"
        return response
    is_client = name == "client.js"
    if not is_client and not _may_explore(request):
        return _refuse_to_explore(request, name)
    _read_csrf_cookie(request)  # Else the browser would get a new token each time.
    token = get_token(request)  # Its cookie is sent, too.
    if name == "openapi.json":
        content_type, text = _JSON_TYPE, _dump(_describe_api(request))
    else:
        content_type, text = _TEXTS[name]
        text = _fill_in(text, token)
    headers = {
        "Cache-Control": "private, no-cache" if is_client else "no-store",
        "Vary": "Cookie",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
    }
    response = HttpResponse(text, f"{content_type}; charset=utf-8", headers=headers)
    if is_client:
        set_response_etag(response)  # The middleware gives none to HEAD.
    response = ConditionalGetMiddleware(lambda request: response)(request)
    return _keep_csrf_cookie(request, response)


def _may_explore(request):
    """Return whether the request's user may see the explorer."""
    if settings.DEBUG:
        return True
    user = getattr(request, "user", None)
    # A user model need not have is_staff.
    return getattr(user, "is_active", False) and getattr(user, "is_staff", False)


def _refuse_to_explore(request, name):
    """Answer 404. Tell visitors where they can log in: a session may have ended."""
    user = getattr(request, "user", None)
    if user is None or user.is_authenticated:
        raise Http404
    login = _login_url()
    if name or "login_url" not in login:
        raise AJAXError(404, _("Not found."), **login)
    separator = "&" if "?" in login["login_url"] else "?"
    query = urlencode({"next": request.get_full_path()})
    text = format_html(_LOGIN_PAGE, f"{login['login_url']}{separator}{query}")
    headers = {"Cache-Control": "no-store", "Vary": "Cookie", "X-Frame-Options": "DENY"}
    return HttpResponse(text, status=404, headers=headers)


def _fill_in(text, token):
    """Return a text with the site's names of the cookie, the header and the time zone,
    and a token."""
    replacements = {
        "CSRF_TOKEN": token,
        "csrftoken": settings.CSRF_COOKIE_NAME,
        "X-CSRFToken": _get_header_name(),
        "UTC": _get_zone_name(),
    }
    for usual, replacement in replacements.items():
        text = text.replace(_dump(usual), _dump(replacement), 1)
    return text


def _get_zone_name():
    """Return the current time zone as JavaScript has it: its name or its offset."""
    zone = timezone.get_current_timezone()
    if hasattr(zone, "key"):
        return zone.key
    offset = datetime.datetime.now(zone).isoformat()[-6:]
    return "UTC" if offset == "+00:00" else offset


# --- OpenAPI --------------------------------------------------------------------------

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}


def _describe_list(items):
    return {"type": "array", "items": items}


def _describe_object(properties, required=None):
    """Return the schema of an object. By default all its properties are required."""
    if required is None:
        required = properties
    return {"type": "object", "properties": properties, "required": list(required)}


_TAG = _describe_object({"pk": {}, "name": _TEXT, "slug": _TEXT})


def _describe_field(field, is_sent=False):
    """Return the schema of a model's or a form's field.

    It describes what the field shows, or if `is_sent`, what clients send for it.
    """
    if _is_tags_manager(field):
        tag = _TEXT if is_sent else _TAG
        return _describe_list(tag)
    schema = _describe_value(field, is_sent)
    if _holds_several(field):
        if schema.get("format") == "binary":
            schema["type"] = ["string"]  # Null would clear all files.
        schema = _describe_list(schema)
    elif getattr(field, "null", False):
        _allow_null(schema)
    _add_help_text(schema, field)
    return schema


def _add_help_text(schema, field):
    help_text = str(getattr(field, "help_text", ""))
    if help_text:
        schema["description"] = help_text


def _describe_value(field, is_sent):
    """Return the schema of one value of a field, which may hold several."""
    related_model = _find_related_model(field)
    typed_field = getattr(field, "output_field", field)  # GeneratedField has one.
    if related_model:
        typed_field = _root_key(related_model)
    kind = _find_kind(type(typed_field))
    schema = {}
    if kind.types:
        schema["type"] = list(kind.types)
    if _takes_large_integers(typed_field) or _has_own_values(typed_field):
        schema["type"] = list(_KINDS["BigIntegerField"].types)
    value_format = _find_format(field, kind, is_sent)
    if value_format:
        schema["format"] = value_format
    if related_model:
        schema["x-ajax"] = {"pk_of": _model_path(related_model)}
    elif is_sent:
        schema.update(_describe_limits(field, kind, value_format))
    widget = getattr(field, "widget", None)
    if isinstance(field, models.TextField) or isinstance(widget, forms.Textarea):
        schema["x-ajax"] = {"multiline": True}
    return schema


def _has_own_values(field):
    """Return whether an integer field of the project's shows its values as text."""
    is_own = not type(field).__module__.startswith("django.")
    return is_own and isinstance(field, models.IntegerField)


def _model_path(model):
    return model._meta.label_lower.replace(".", "/")


def _find_related_model(field):
    """Return the model that a field refers to, or None."""
    queryset = getattr(field, "queryset", None)  # Only fields of forms have one.
    related_model = getattr(queryset, "model", None)
    return related_model or getattr(field, "related_model", None)


def _find_format(field, kind, is_sent):
    if isinstance(field, models.FileField) and not is_sent:
        return "uri-reference"
    if kind.format == "date-time" and not settings.USE_TZ:
        return ""  # RFC 3339 wants an offset, which naive date-times do not have.
    if kind.format == "email" and _may_be_empty(field):
        return ""  # An empty text is no address.
    return kind.format


def _may_be_empty(field):
    """Return whether a model's or a form's field for text may be the empty text."""
    if isinstance(field, models.Field):
        return field.blank and isinstance(field, _TEXT_FIELDS)
    return not field.required


def _describe_limits(field, kind, value_format):
    """Return what narrows the values that clients send: choices, or a length."""
    if getattr(field, "choices", None):
        return {"oneOf": _describe_choices(field, kind)}
    if getattr(field, "max_length", None) and not value_format:
        return {"maxLength": field.max_length}
    return {}


def _describe_choices(field, kind):
    """Return the schemas of a field's choices; the empty text is one if it may be
    sent. None of several choices is no text, but an empty list."""
    titles = {}
    for value, title in flatten_choices(field.choices):
        value = _plain_column_value(value)
        if kind.types == ("string",) and value is not None:
            value = str(value)  # The choices of a form's field may be numbers.
        titles[value] = str(title)
    titles.pop(None, None)
    if _may_be_empty(field) and not _holds_several(field):
        titles.setdefault("", "empty")
    else:
        titles.pop("", None)
    return [{"const": value, "title": title} for value, title in titles.items()]


def _holds_several(field):
    several = (forms.MultipleChoiceField, forms.ModelMultipleChoiceField)
    if getattr(field, "many_to_many", False) or isinstance(field, several):
        return True
    return _reads_several(getattr(field, "widget", None))


def _allow_null(schema):
    """Add null to a schema. One without a type allows it already."""
    if "type" not in schema:
        return
    names = _as_list(schema["type"])
    if "null" not in names:
        schema["type"] = [*names, "null"]
        if "oneOf" in schema:
            schema["oneOf"].append({"const": None, "title": "null"})


#: The schemas of what a part of a date is compared with; of others it is a number.
_PARTS_AS_TEXT = {
    "date": {"type": ["string"], "format": "date"},
    "time": {"type": ["string"], "format": "time-local"},
}


def _describe_filter(field, lookups):
    """Return the schema of one value that a filter compares a field with."""
    if lookups == ["isnull"]:
        return {"type": ["boolean"]}
    if isinstance(field, models.JSONField):
        return {"type": ["string", "number", "boolean"]}
    if lookups and lookups[0] in _DATE_PARTS:
        return _PARTS_AS_TEXT.get(lookups[0], {"type": ["integer"]})
    if lookups and not _COMPARISONS.issuperset(lookups):
        return {"type": ["string"]}
    schema = _describe_value(field, is_sent=False)
    schema.setdefault("type", ["string"])
    if not lookups and getattr(field, "choices", None):
        choices = _describe_choices(field, _find_kind(type(field)))
        # To a list, an empty text means that nothing is asked.
        choices = [choice for choice in choices if choice["const"] != ""]
        schema["x-ajax"] = {"choices": choices}  # Other values are taken, too.
    if schema.get("format") in ("email", "uri-reference"):
        del schema["format"]  # Any text may be looked for.
    if not lookups and (field.null or field.many_to_many):
        _allow_null(schema)
    return schema


def _or_several(schema):
    """Return the schema of a value or a list of such values."""
    return {**schema, "type": [*schema["type"], "array"], "items": schema}


class _Shape(NamedTuple):
    """What a call takes, and what it replies.

    `parameters` are schemas by name, None for a call without a body. `reply` holds the
    schemas of the reply's keys, except for `success`; `optional` those of keys that it
    may have besides.
    """

    parameters: dict | None = None
    required: Iterable = ()
    reply: dict = {}
    optional: dict = {}


def _describe_call(path, doc, callers, shape, question=""):
    """Return the path of a call and its OpenAPI path item.

    The first line of `doc` is the summary.
    """
    summary, _line, description = doc.partition("\n")
    group = path.rpartition("/")[0]
    notes = {"who": callers.sentence}
    if question:
        notes["asks"] = question
    call = {
        "operationId": _make_id(path.replace("/", ".").replace("{pk}", "pk")),
        "tags": [group.partition("/{pk}")[0]],
        "summary": summary,
        "description": description.strip(),
        "security": _describe_security(callers),
        "responses": {
            "200": _describe_success(shape),
            "4XX": {"$ref": "#/components/responses/failure"},
            "5XX": {"$ref": "#/components/responses/failure"},
        },
        "x-ajax": notes,
    }
    if shape.parameters is not None:
        call["requestBody"] = _describe_body(shape)
    return f"/{path}.json", {"post": call}


class _Callers(NamedTuple):
    """Who may make a call."""

    #: A sentence that says who may, and which hook decides.
    sentence: str
    may_be_users: bool = True
    may_be_visitors: bool = False


def _describe_security(callers):
    """Return the alternatives of security schemes that a call takes, the usual first:
    a CSRF token, with or without a session."""
    names = ["csrf"]
    if not settings.CSRF_USE_SESSIONS:
        names.append("csrfCookie")
    schemes = dict.fromkeys(names, [])
    alternatives = []
    if callers.may_be_users:
        alternatives.append({**schemes, "session": []})
    if callers.may_be_visitors:
        alternatives.append(schemes)
    return alternatives


def _describe_success(shape):
    required = {"success": {"const": True}, "data": {}, **shape.reply}
    schema = _describe_object({**required, **shape.optional}, required)
    return {"description": "Success.", "content": {_JSON_TYPE: {"schema": schema}}}


def _describe_body(shape):
    """Return a call's request body: JSON or a form, which is multipart for files."""
    schema = {}
    if shape.parameters:
        schema = _describe_object(shape.parameters, shape.required)
    form_type, multipart_type, _json_type = _TYPES
    for parameter in shape.parameters.values():
        value = parameter.get("items", parameter)
        if value.get("format") == "binary":
            form_type = multipart_type
    content = {_JSON_TYPE: {"schema": schema}, form_type: {"schema": schema}}
    return {"required": bool(shape.required), "content": content}


def _describe_callers(served_endpoint, hook=None, permission=""):
    """Return the _Callers of an operation."""
    endpoint_class = type(served_endpoint)
    name = endpoint_class.__name__
    has_hook = hook is not None and _overrides(endpoint_class, hook)
    if hook == "can_list" and not has_hook:
        return _Callers(f"Nobody, until {name}.can_list returns True.")
    authentication = _find_authentication(endpoint_class)
    if authentication:
        who = f"Access: decided by {authentication}"
        if has_hook:
            who += f" and {name}.{hook}"
    else:
        who = "Logged-in users"
        if has_hook:
            who += f", if {name}.{hook} allows"
    if permission and served_endpoint._wants_permissions:
        who += f", with the permission to {permission}"
    return _Callers(f"{who}.", may_be_visitors=bool(authentication))


def _find_authentication(endpoint_class):
    """Return the name of what replaces the default authentication, or None."""
    if endpoint_class.authenticate is not _ServedEndpoint.authenticate:
        return f"{endpoint_class.__name__}.authenticate"
    if hasattr(settings, "AJAX_AUTHENTICATION"):
        return "AJAX_AUTHENTICATION"
    return None


def _describe_function(path, function):
    needs_login = getattr(function.view, "wants_login", function.wants_login)
    if needs_login:
        callers = _Callers("Logged-in users.")
    else:
        callers = _Callers("Everybody.", may_be_users=False, may_be_visitors=True)
    doc = _find_doc(function.view, f"Call `{path.rpartition('/')[2]}`.")
    shape = _make_custom_shape(function.parameters)
    return _describe_call(path, doc, callers, shape)


def _make_custom_shape(parameters):
    """Return the shape of a function or operation of the project's."""
    schemas, required = {}, ()  # It may take anything.
    if parameters is not None:
        schemas, required = parameters.describe()
        schemas = schemas or None
    return _Shape(schemas, required, optional={"hint": _HINT})


def _find_doc(described, default=""):
    """Return the docstring of something of the project's, or else a default."""
    doc = getattr(described, "__doc__", None)
    if not doc or getattr(described, "__module__", None) == __name__:
        return default
    return inspect.cleandoc(doc)


def _describe_form(path, form_endpoint):
    parameters = {}
    required = []
    prefix = form_endpoint.model.prefix
    for name, field in form_endpoint.model.base_fields.items():
        if field.disabled:
            continue  # What is sent for it is not read.
        inputs = _describe_inputs(f"{prefix}-{name}" if prefix else name, field)
        parameters.update(inputs)
        if field.required and getattr(field, "require_all_fields", True):
            required += inputs
    callers = _describe_callers(form_endpoint)
    shape = _Shape(parameters, required, optional={"hint": _HINT})
    summary = f"Submit `{form_endpoint.model.__name__}`."
    docs = [_find_doc(form_endpoint.model), _find_doc(type(form_endpoint))]
    doc = "\n\n".join(filter(None, docs)) or summary
    return _describe_call(path, doc, callers, shape)


def _describe_inputs(key, field):
    """Return by key the schemas of the inputs that a field of a form reads."""
    if not isinstance(field.widget, forms.MultiWidget):
        return {key: _describe_field(field, is_sent=True)}
    schemas = {}
    for input_key, _widget in _find_inputs(field.widget, key):
        schemas[input_key] = {"type": ["string"]}
        _add_help_text(schemas[input_key], field)
    return schemas


def _describe_model(path, model_endpoint):
    """Yield the path and the path item of each call of a model."""
    pk_schema = _describe_field(_root_key(model_endpoint.model))
    pk_schema["type"] = pk_schema.get("type", ["string"])[0]
    pk = {"name": "pk", "in": "path", "required": True, "schema": pk_schema}
    operations = _describe_operations(path, model_endpoint)
    commands = _describe_commands(path, model_endpoint)
    for call_path, path_item in itertools.chain(operations, commands):
        if "{pk}" in call_path:
            path_item["parameters"] = [pk]
        yield call_path, path_item


def _describe_operations(path, model_endpoint):
    """Yield the calls of the operations that an endpoint offers."""
    shapes = _make_shapes(model_endpoint)
    for name, operation in _operations(type(model_endpoint)).items():
        if not model_endpoint._offers(name):
            continue
        method = getattr(type(model_endpoint), name)
        summary = _fill_summary(operation, model_endpoint.model)
        if operation.is_custom:
            shape = _make_custom_shape(getattr(method, "_parameters", None))
        else:
            summary += f"\n{inspect.getdoc(getattr(ModelEndpoint, name))}"
            shape = shapes[name]
        doc = _find_doc(method, summary)
        for call_path, hook in _find_call_paths(path, name, operation):
            callers = _describe_callers(model_endpoint, hook, operation.permission)
            yield _describe_call(call_path, doc, callers, shape, operation.question)


def _fill_summary(operation, model):
    """Return the summary of an operation with the names of a model in it."""
    name = str(model._meta.verbose_name)
    article = "an" if re.match("[aeio]|u(?!s|ni)", name, re.I) else "a"
    plural = str(model._meta.verbose_name_plural)
    return operation.summary.format(model=f"{article} {name}", models=plural)


def _find_call_paths(path, name, operation):
    """Yield each path of an operation, with the hook that is asked there."""
    if not operation.on_record:
        # Without a record, a custom operation asks no hook.
        hook = None if operation.is_custom else operation.hook
        yield f"{path}/{name}", hook
    if operation.on_record is not False:
        yield f"{path}/{{pk}}/{name}", operation.hook


def _make_shapes(model_endpoint):
    """Return by name what the operations of every model take and reply."""
    plan = model_endpoint._plan
    parameters, required = _describe_writable(plan)
    record = _refer_to_schema(model_endpoint.model)
    only_pk = _describe_object({"pk": _describe_field(model_endpoint.model._meta.pk)})
    version = _describe_version(model_endpoint)
    written = record
    if plan.hides_records:
        written = {"anyOf": [record, only_pk]}
    page = {
        "data": _describe_list(record),
        "total": _NUMBER,
        "total_pages": _NUMBER,
        "current_page": _NUMBER,
        "items_per_page": _NUMBER,
    }
    list_parameters = _ListOptions(model_endpoint).describe()
    beside = {"ignored": _IGNORED, "hint": _HINT}
    return {
        "create": _Shape(parameters, required, {"data": written}, beside),
        "list": _Shape(list_parameters, (), page, {"hint": _HINT}),
        "get": _Shape(None, (), {"data": record}, {"hint": _HINT}),
        "update": _Shape({**parameters, **version}, (), {"data": written}, beside),
        "delete": _Shape(version or None, reply={"data": only_pk}),
    }


def _describe_version(model_endpoint):
    """Return by name the schema of the version that update and delete take."""
    name = model_endpoint.version_field
    if name is None:
        return {}
    schema = _describe_field(model_endpoint.model._meta.get_field(name))
    schema["description"] = "Send the value that you read. Another one is a 409."
    schema["x-ajax"] = {"version": True}
    return {name: schema}


def _describe_writable(plan):
    """Return the schemas of the fields that clients may write, and the names of those
    that `create` requires."""
    schemas = {}
    required = []
    for name, part in plan.writable.items():
        if name == "pk":
            continue  # It can be sent by the field's own name too.
        field = part.field
        schemas[name] = _describe_field(field, is_sent=True)
        has_default = field.has_default() or field.has_db_default()
        if not (field.blank or has_default):
            required.append(name)
    return schemas, required


def _make_id(name):
    """Return a name in the characters that OpenAPI takes: those of others are spelt."""
    return quote(name).replace("%", "-")


def _name_schema(model, left_out=()):
    """Return the name of the schema of a model's records, all or some of whose keys
    they have."""
    names = [model._meta.label_lower]
    if left_out:
        names += ["without", *left_out]
    return _make_id("-".join(names))


def _refer_to_schema(model, left_out=()):
    return {"$ref": f"#/components/schemas/{_name_schema(model, left_out)}"}


def _describe_commands(path, model_endpoint):
    """Yield the calls of the tags commands that an endpoint offers."""
    plan = model_endpoint._plan
    for manager_name in plan.tag_parts:
        if not model_endpoint._offers(manager_name):
            continue
        is_writable = manager_name in plan.writable
        for command, operation in _COMMANDS.items():
            if operation.reads or is_writable:
                call_path = f"{path}/{{pk}}/{manager_name}/{command}"
                yield _describe_command(call_path, model_endpoint, command, operation)


def _describe_command(call_path, model_endpoint, command, operation):
    callers = _describe_callers(model_endpoint, operation.hook, operation.permission)
    shape = _make_command_shape(command, model_endpoint.model)
    summary = _fill_summary(operation, model_endpoint.model)
    return _describe_call(call_path, summary, callers, shape, operation.question)


def _make_command_shape(command, model):
    if command == "similar":
        records = _describe_list(_refer_to_schema(model))
        return _Shape(None, (), {"data": records}, {"hint": _HINT})
    reply = {"data": _describe_list(_TAG)}
    if command == "clear":
        return _Shape(reply=reply)
    return _Shape({"tags": _describe_list(_TEXT)}, ["tags"], reply)


def _describe_calls(request):
    """Yield the path and the path item of everything that can be called."""
    for (label, name), function in _discovery.functions.items():
        yield _describe_function(f"{label}/{name}", function)
    for (base, label, name), served in endpoint._paths.items():
        path = f"{label}/{name}"
        endpoint_class = endpoint._registry[served]
        served_endpoint = endpoint_class(label, served, "create")
        served_endpoint.request = request
        if base is FormEndpoint:
            yield _describe_form(path, served_endpoint)
        else:
            yield from _describe_model(path, served_endpoint)


def _describe_records(request):
    """Return by name the schema of each model's records, wherever they are shown."""
    plans = {}
    for model in dict.fromkeys(endpoint._paths.values()):
        endpoint_class = endpoint._registry[model]
        if issubclass(endpoint_class, ModelEndpoint):
            _collect_plans(endpoint_class._for_model(model, request)._plan, plans)
    schemas = {}
    for name, same in plans.items():
        same.sort(key=lambda plan: plan.outer is not None)
        schemas[name] = same[0].describe(is_written=True)
        for plan in same[1:]:
            _add_expansions(schemas[name], plan)
    return schemas


def _collect_plans(plan, plans):
    """Add a plan, and the plans of what it expands, to the lists of plans by the name
    of their schema."""
    plans.setdefault(_name_schema(plan.model, plan.left_out), []).append(plan)
    for part in plan.parts:
        related = getattr(part, "related", None)
        if related is not None:
            _collect_plans(related, plans)


def _add_expansions(schema, plan):
    """Add to the schema of a model's records what is expanded only elsewhere."""
    properties = plan.describe(is_written=True).get("properties", {})
    for part in plan.parts:
        is_expanded = isinstance(part, (_ExpandedKey, _ExpandedMembers))
        if is_expanded and part.name in properties:
            schema["properties"][part.name] = properties[part.name]


#: What may stand beside the data of a reply.
_IGNORED = {
    **_describe_list(_TEXT),
    "description": "The keys that were sent and not written.",
}
_HINT = {**_TEXT, "description": "In DEBUG: what the site's developer can do."}


def _describe_failure():
    error = _describe_object({"code": _NUMBER, "message": _TEXT})
    place = _describe_object({"file": _TEXT, "line": {}, "in": _TEXT, "code": {}})
    properties = {
        "success": {"const": False},
        "data": error,
        "errors": {
            "type": "object",
            "additionalProperties": _describe_list(_TEXT),
            "description": "Messages by key. __all__ has those of the whole record.",
        },
        "current": {
            "description": "The record as it is now, where it has been changed."
        },
        "login_url": {**_TEXT, "description": "Logging in there would help."},
        "csrf": {
            "type": ["string", "boolean"],
            "description": "A fresh token to try again with. True if none helps.",
        },
        "hint": _HINT,
        "traceback": {**_describe_list(place), "description": "In DEBUG."},
    }
    schema = _describe_object(properties, ["success", "data"])
    return {"description": "Failure.", "content": {_JSON_TYPE: {"schema": schema}}}


def _describe_security_schemes():
    session_cookie = settings.SESSION_COOKIE_NAME
    schemes = {
        "session": {"type": "apiKey", "in": "cookie", "name": session_cookie},
        "csrf": {"type": "apiKey", "in": "header", "name": _get_header_name()},
    }
    if not settings.CSRF_USE_SESSIONS:
        csrf_cookie = settings.CSRF_COOKIE_NAME
        schemes["csrfCookie"] = {"type": "apiKey", "in": "cookie", "name": csrf_cookie}
    return schemes


def _keep_used(components, paths):
    """Return the components that paths use, by themselves or through others."""
    used = set()
    for path_item in paths.values():
        for alternative in path_item["post"]["security"]:
            used.update(f"#/components/securitySchemes/{name}" for name in alternative)
    descriptions = [paths]
    while descriptions:
        for reference in _find_references(descriptions.pop()):
            if reference not in used:
                used.add(reference)
                _root, _components, kind, name = reference.split("/")
                descriptions.append(components[kind][name])
    kept = {}
    for kind, described in components.items():
        kept[kind] = {}
        for name, description in described.items():
            if f"#/components/{kind}/{name}" in used:
                kept[kind][name] = description
    return kept


def _find_references(described):
    """Return what each $ref in a description refers to."""
    # In a text of the description, the quotes would be escaped.
    return re.findall(r'"\$ref":"([^"]*)"', _dump(described))


def _endpoints_modules():
    """Yield the endpoints.py of each app that has one."""
    for config in apps.get_app_configs():
        module = _import_endpoints(config)
        if module is not None:
            yield module


def _describe_modules():
    """Return the docstrings of all endpoints.py as one text."""
    docs = [inspect.getdoc(module) or "" for module in _endpoints_modules()]
    return "\n\n".join(docs).strip()


def _describe_groups():
    """Yield the name and description of each group of calls: the functions and forms of
    an app, or the operations of a model."""
    docs = {}
    for label, _name in _discovery.functions:
        docs[label] = _describe_app(label)
    for (base, label, name), served in endpoint._paths.items():
        if base is FormEndpoint:
            docs[label] = _describe_app(label)
        else:
            plural = str(served._meta.verbose_name_plural)
            default = f"{plural[:1].upper()}{plural[1:]}."
            docs[f"{label}/{name}"] = _find_doc(endpoint._registry[served], default)
    for group, doc in docs.items():
        yield {"name": group, "description": doc}


def _describe_app(label):
    """Return the docstring of an app's endpoints.py, or else the app's name."""
    config = apps.get_app_config(label)
    module = _import_endpoints(config)
    return (module and inspect.getdoc(module)) or f"{config.verbose_name}."


def _describe_visitor(request):
    """Return whom the page is logged in as, and where visitors can log in."""
    user = getattr(request, "user", None)
    if user and user.is_authenticated:
        return {"you": f"You are logged in as {user}."}
    return {"you": "You are not logged in.", **_login_url()}


def _describe_api(request):
    """Return the OpenAPI 3.1 description of all that is served.

    It comes from the same tables and plans that answer the calls.
    """
    _autodiscover()
    paths = dict(_describe_calls(request))
    components = {
        "schemas": _describe_records(request),
        "responses": {"failure": _describe_failure()},
        "securitySchemes": _describe_security_schemes(),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ajax.py",
            "version": __version__,
            "description": _describe_modules(),
            "license": {"name": "Private", "identifier": "LicenseRef-Private"},
        },
        "servers": [{"url": request.path.removesuffix("/openapi.json") or "/"}],
        "tags": list(_describe_groups()),
        "paths": paths,
        "components": _keep_used(components, paths),
        "x-ajax": _describe_visitor(request),
    }


def _make_pattern(route, *names):
    """Return the pattern of a path that has a segment for each name."""
    segments = "/".join(f"<str:{name}>" for name in names)
    return path(f"{segments}.json", dispatch, {"names": names}, name=route)


urlpatterns = [
    path("", _serve_page_text, {"name": ""}, name="explorer"),
    path("client.js", _serve_page_text, {"name": "client.js"}, name="client"),
    path("openapi.json", _serve_page_text, {"name": "openapi.json"}, name="openapi"),
    re_path(r"^(?P<name>explorer\.(?:js|css|svg))\Z", _serve_page_text, name="served"),
    _make_pattern("endpoint", "app", "name"),
    _make_pattern("model", "app", "model", "operation"),
    _make_pattern("record", "app", "model", "pk", "operation"),
    _make_pattern("tags", "app", "model", "pk", "tags", "command"),
    re_path(r"^[\s\S]*\.json\Z", dispatch, {"names": ()}, name="not_found"),
]


# --- Checks and AppConfig -------------------------------------------------------------


# Each check yields the number of its message, the text, and a hint.


def _check_copies():
    """Find a second copy of this file under another import name (E004).

    What is registered with one copy is not served by the other. Look once all of the
    project is imported; errors of its URLconf are for Django's own check to report.
    """
    with contextlib.suppress(Exception):
        importlib.import_module(settings.ROOT_URLCONF)
    for name, module in sorted(sys.modules.items()):
        # Not getattr(): a module may import what it is asked for. It may also be None.
        module_names = getattr(module, "__dict__", {})
        model_endpoint_class = module_names.get("ModelEndpoint")
        defined_in = getattr(model_endpoint_class, "__module__", None)
        # A module that only imports names from this one is no copy.
        is_copy = defined_in == name and "AjaxConfig" in module_names
        if is_copy and name != __name__:
            hint = f"Import it as {__name__}: each copy has a registry of its own."
            yield "E004", f"{__name__} is also imported as {name}.", hint


def _check_imports():
    """Find an endpoints.py that cannot be imported (E001).

    Then no endpoint is served at all: the missing ones may be those that narrow access.
    """
    try:
        _autodiscover()
    except ImproperlyConfigured as error:
        hint = "Correct the file. Until then, every call is answered with status 500."
        yield "E001", str(error), hint


def _check_exposure():
    """Find callables in an endpoints.py that are not endpoints (W004).

    Their author may believe that pages can call them.
    """
    to_hide = (
        "To hide it, begin its name with an underscore, or list the endpoints in "
        "__all__."
    )
    for module in _endpoints_modules():
        for name, value in vars(module).items():
            if _looks_exposed(name, value, module):
                message = f"{module.__name__}.{name} is not exposed."
                yield "W004", message, f"{_explain_exposure(value)} {to_hide}"


def _looks_exposed(name, value, module):
    """Whether a module's own function or object could be an endpoint, but is none."""
    # An alias of a type, such as Annotated[int, ...], is callable too.
    is_type = isinstance(value, type) or typing.get_origin(value) is not None
    if name.startswith("_") or is_type or not callable(value):
        return False
    if hasattr(module, "__all__"):
        return name in module.__all__ and _wants_more(value)
    if isinstance(value, BaseEndpoint):
        return _wants_more(value)
    if not _takes_one(value):
        return False
    is_own = getattr(value, "__module__", None) == module.__name__
    if not is_own and (inspect.isroutine(value) or _is_imported(name, value, module)):
        return False
    return not _is_exposed(value, module)


def _is_imported(name, value, module):
    """Whether another module than this one has an object under the same name."""
    for other in list(sys.modules.values()):
        names = getattr(other, "__dict__", {})
        if other is not module and names.get(name) is value:
            return True
    return False


def _explain_unexposed(label, name):
    """Return why a name in the endpoints.py of an app is no endpoint, None if there is
    no such name."""
    for module in _endpoints_modules():
        if apps.get_containing_app_config(module.__name__).label == label:
            value = getattr(module, name, None)
            if _looks_exposed(name, value, module):
                place = f"{module.__name__}.{name}"
                return f"{place} is not exposed. {_explain_exposure(value)}"
            if _asks_for_more(name, value, module):
                advice = "put @ajax.validated above it."
                return f"{module.__name__}.{name} takes more than request: {advice}"
    return None


def _asks_for_more(name, value, module):
    """Whether a module's own function requires parameters after `request`."""
    if name.startswith("_") or hasattr(module, "__all__"):
        return False
    if not inspect.isfunction(value) or value.__module__ != module.__name__:
        return False
    names = list(_read_signature(value).parameters)
    return names[:1] == ["request"] and _wants_more(value)


def _explain_exposure(value):
    """Return what has to be changed to expose a function or an object."""
    if _wants_more(value):
        return (
            "It wants more than request. To expose it, write @ajax.validated directly "
            "above the function."
        )
    if inspect.isfunction(inspect.unwrap(value)):
        return (
            "To expose it, name its first parameter request, and use functools.wraps "
            "in its decorators."
        )
    return (
        "To expose it, let its class extend ajax.BaseEndpoint, or call it in a "
        "function that takes request."
    )


class _NameRules:
    """What the names in the class attributes of an endpoint have to be."""

    def __init__(self, model, endpoint_class):
        self.model = model
        self.endpoint_class = endpoint_class
        self.field_names = {*_model_fields(model), *_pk_names(model)}
        #: By the name of a column that is no field's name, the field's.
        self.columns = {}
        for field in model._meta.concrete_fields:
            if field.attname not in self.field_names:
                self.columns[field.attname] = field.name

    def accepts(self, attribute, name):
        """Whether a name may stand in a class attribute."""
        if not isinstance(name, str):
            return attribute == "ordering"  # It may hold expressions.
        is_valid = _NAME_RULES[attribute]
        return is_valid(self, name)

    def suggest(self, name, attribute="fields"):
        """Return a hint about a name that a class attribute does not accept."""
        if not isinstance(name, str):
            return "Correct the name, or remove it."
        known_names = self.field_names
        if attribute == "operations":
            known_names = _operations(self.endpoint_class)
        name = name.lstrip("-^=@")
        close_name = self.columns.get(name)
        if "__" in name:
            close_name = close_name or self.correct_path(name)
        close_name = close_name or _find_close(name, known_names)
        if close_name and close_name != name:
            return f"Did you mean {close_name}?"
        if attribute == "search_fields" and name.partition("__")[0] in self.field_names:
            return f"Name a column to search in, such as {name}__name."
        return "Correct the name, or remove it."

    def correct_path(self, path_name):
        """Return a path with its first wrong name corrected, None if no name is
        close."""
        field, wrong_names = _end_of_path(self.model, path_name)
        model = self.model if field is None else field.related_model
        if not wrong_names or model is None:
            return None
        close_name = _find_close(wrong_names[0], _model_fields(model))
        if close_name is None:
            return None
        names = path_name.split("__")
        names[-len(wrong_names)] = close_name
        return "__".join(names)

    def is_extra(self, name):
        """Whether a name is a property's or method's of the endpoint or the model."""
        return _defines(self.endpoint_class, name) or hasattr(self.model, name)

    def is_lookup(self, name):
        """Whether filter() takes a name. The database is not asked."""
        annotations = _Annotations(self.model, self.endpoint_class)
        if name.partition("__")[0] in annotations.given:
            if annotations.wants_request(name.partition("__")[0]):
                return True
        try:
            annotations.add(self.model._base_manager.all(), None).filter((name, None))
        except core_exceptions.FieldError:
            return False
        except (TypeError, ValueError, ValidationError):
            pass  # The lookup exists, but does not take None.
        return bool(name)

    def is_shown(self, name):
        if name in self.field_names or name in self.endpoint_class.annotations:
            return True
        return self.is_extra(name)

    def is_key(self, name):
        """Whether a name can be a key of the record: of a column such as `author_id`,
        the key is `author`."""
        fields = self.endpoint_class.fields or ()
        return self.is_shown(name) and (name not in self.columns or name in fields)

    def is_expandable(self, path_name):
        model = self.model
        for name in path_name.split("__"):
            model = _find_expanded_model(model, name)
            if model is None:
                return path_name not in self.field_names and self.is_extra(path_name)
        return True

    def is_order(self, name):
        return name in ("?", "-?") or self.is_lookup(name.lstrip("-"))

    def is_sortable(self, name):
        from django.contrib.admin.utils import lookup_spawns_duplicates

        is_repeated = lookup_spawns_duplicates(self.model._meta, name)
        return self.is_lookup(name) and not is_repeated

    def is_searchable(self, name):
        name = name.lstrip("^=@")
        if name.partition("__")[0] in self.endpoint_class.annotations:
            return False  # The search does not annotate its query.
        _field, lookups = _end_of_path(self.model, name)
        return self.is_lookup(name if lookups else f"{name}__icontains")

    def is_filter(self, name):
        first_name, *lookups = name.split("__")
        if first_name in self.endpoint_class.annotations:
            return self.is_lookup(name) and _LOOKUPS.issuperset(lookups)
        field, lookups = _end_of_path(self.model, name)
        return self.is_lookup(name) and _is_offered(field, lookups)

    def is_operation(self, name):
        field = _model_fields(self.model).get(name)
        if field is not None and _is_tags_manager(field):
            return True
        return name in _operations(self.endpoint_class)


def _find_expanded_model(model, name):
    """Return the model of the records that a name expands to, None if it names no
    foreign key, many-to-many relation or children."""
    field = _model_fields(model).get(name)
    if field is None:
        relation = _find_child_relation(model, name)
        return None if relation is None else relation.related_model
    is_plural = field.many_to_many and not _is_tags_manager(field)
    if is_plural or isinstance(field, models.ForeignKey):
        return field.remote_field.model
    return None


#: The rule for the names in each class attribute.
_NAME_RULES = {
    "fields": _NameRules.is_shown,
    "exclude": _NameRules.is_key,
    "readonly_fields": _NameRules.is_key,
    "immutable_fields": _NameRules.is_key,
    "expand": _NameRules.is_expandable,
    "ordering": _NameRules.is_order,
    "sortable_by": _NameRules.is_sortable,
    "search_fields": _NameRules.is_searchable,
    "list_filter": _NameRules.is_filter,
    "operations": _NameRules.is_operation,
}


def _check_names(model, endpoint_class):
    """Find class attributes that name what the model does not have (E002).

    A misspelt name in `exclude` or `readonly_fields` would protect nothing.
    """
    rules = _NameRules(model, endpoint_class)
    for attribute in _NAME_RULES:
        names = getattr(endpoint_class, attribute) or ()
        place = f"{endpoint_class.__name__}.{attribute}"
        if isinstance(names, int) or names == "__all__":
            continue
        for name in names:
            if not rules.accepts(attribute, name):
                message = f"{place} names {name!r}, which {model._meta.label} does not"
                hint = rules.suggest(name, attribute)
                yield "E002", f"{message} have or offer.", hint


def _check_encoder_names(model, model_encoder):
    """Find names in an encoder that its model does not have (E002).

    A misspelt name in `exclude` would hide nothing.
    """
    if model_encoder._is_custom:
        return  # It may show names of its own.
    rules = _NameRules(model, endpoint.find(model))
    relations = {field.name for field in model._meta.get_fields()}
    class_name = type(model_encoder).__name__
    for attribute in ("include", "exclude"):
        for name in getattr(model_encoder, attribute, ()):
            is_name = isinstance(name, str) and rules.is_key(name)
            if not is_name and name not in relations:
                message = f"The {class_name} of {_label(model)} names {name!r}, which"
                yield "E002", f"{message} it does not have.", rules.suggest(name)


def _check_authentication():
    """Find a class in AJAX_AUTHENTICATION that cannot be used (E002)."""
    try:
        _find_authentication_class()
    except (ImportError, ImproperlyConfigured) as error:
        hint = "Correct the class, or the setting AJAX_AUTHENTICATION."
        yield "E002", str(error), hint


def _check_largest_page():
    """Find an AJAX_MAX_PER_PAGE that is no number of records (E002)."""
    try:
        _find_largest_page()
    except ImproperlyConfigured as error:
        yield "E002", str(error), "Correct the setting, or remove it to use 100."


def _check_old_settings():
    """Find the setting of the old package that nothing reads (E002)."""
    if hasattr(settings, "AJAX_PK_ATTR_NAME"):
        message = "The setting AJAX_PK_ATTR_NAME is never read."
        yield "E002", message, "Remove it: the key of a record is always 'pk'."


def _check_hidden_create(model, endpoint_class):
    """Find a function or form at the path where a model's records are created (E003).

    Clients that mean to create a record would call it.
    """
    if not endpoint_class._offers("create"):
        return
    for label, name in _find_paths(model, endpoint_class):
        is_function = (label, name) in _discovery.functions
        is_form = (FormEndpoint, label, name) in endpoint._paths
        if is_function or is_form:
            kind = "function" if is_function else "form"
            message = f"The {kind} at {label}/{name}.json hides create of"
            hint = f"Rename the {kind}. A function can also be left out of __all__."
            yield "E003", f"{message} {_label(model)}.", hint


def _check_expansions(model, endpoint_class):
    """Find models that a foreign key shows or refers to, though nothing says what may
    be shown of them, and which records may be referred to (W001).

    Their authors may not know that all of their fields can be read.
    """
    plan = _Plan(model, endpoint_class, True)
    shown_models = plan.expansions.models
    referred_models = _find_referred_models(plan)
    for related in dict.fromkeys([*shown_models, *referred_models]):
        if not _is_described(related):
            is_shown = related in shown_models
            is_referred = related in referred_models
            name = endpoint_class.__name__
            yield "W001", *_describe_open(name, related, is_shown, is_referred)


def _find_referred_models(plan):
    """Return the models of which clients may write any pk, as far as nobody narrows
    them for this endpoint."""
    if _overrides(plan.endpoint_class, "get_field_queryset"):
        return []
    related_models = []
    for part in plan.writable.values():
        is_relation = isinstance(part, (_ForeignKey, _Members))
        if is_relation and not part.field.get_limit_choices_to():
            related_models.append(part.field.remote_field.model)
    return related_models


def _is_described(model):
    """Return whether the project says what may be seen of a model. By default, user
    models show only the pk and the username."""
    if endpoint.has(model) or endpoint.is_closed(model):
        return True
    return encoder.find(model) is not None or _is_user_model(model)


def _describe_open(name, related, is_shown, is_referred):
    """Return the message and the hint about a model that nothing is said about."""
    verbs = []
    hint = f"Register an endpoint class for {related.__name__}"
    if is_shown:
        verbs.append(f"shows all fields of {_label(related)}")
        hint += (
            ' (with fields = "__all__" to show all), or an encoder; or leave it out of '
            "`expand`"
        )
    if is_referred:
        verbs.append(f"lets users refer to any {_label(related)}")
        hint += "; or put what refers to it into readonly_fields"
    message = f"{name} {' and '.join(verbs)}. No endpoint or encoder says who may."
    return message, f"{hint}."


def _check_form_replies(form_class, endpoint_class):
    """Find models that the reply of a ModelForm shows, though nothing says what may be
    shown of them (W001).

    The record that it saves is shown as the endpoint or the encoder of its model shows
    it. Of a model without either, only the pk and the form's own fields are shown, and
    nothing is expanded.
    """
    options = getattr(form_class, "_meta", None)
    if options is None:
        return
    model = options.model
    if not endpoint.has(model) and encoder.find(model) is None:
        return
    plan = _Plan(model, has_request=True)
    for related in dict.fromkeys(plan.expansions.models):
        if not _is_described(related):
            name = form_class.__name__
            yield "W001", *_describe_open(name, related, True, False)


def _may_hide(model, endpoint_class):
    """Return whether the endpoint of a model may hide records from users whom another
    endpoint class lets in."""
    related_class = endpoint.find(model)
    asks_the_same = related_class.authenticate is endpoint_class.authenticate
    if not asks_the_same and not _has_only_encoder(model):
        return True
    return _is_narrowed(model, related_class) or endpoint.is_closed(model)


def _check_sorting(model, endpoint_class):
    """Find orders through a relation that hides records from some users (W005).

    The order tells about values that the user cannot see.
    """
    for attribute in ("ordering", "sortable_by"):
        for key in getattr(endpoint_class, attribute) or ():
            if not isinstance(key, str):
                continue  # It is an expression of the project's.
            for related in _find_sorted_models(model, key.removeprefix("-")):
                if _may_hide(related, endpoint_class):
                    message = (
                        f"{endpoint_class.__name__}.{attribute} names {key!r}, but the "
                        f"endpoint of {_label(related)} may hide records from some "
                        "users. The order tells them about values that they cannot see."
                    )
                    hint = (
                        f"Leave {key!r} out of {attribute}. If the endpoint hides "
                        "none, add ajax.W005 to SILENCED_SYSTEM_CHECKS."
                    )
                    yield "W005", message, hint


def _find_sorted_models(model, path_name):
    """Yield the related models by whose values an order sorts.

    The name of a relation alone sorts by the usual order of its model, if it has one.
    """
    names = path_name.split("__")
    for length in range(1, len(names) + 1):
        field, lookups = _end_of_path(model, "__".join(names[:length]))
        related = getattr(field, "related_model", None)
        if lookups or related is None:
            return
        is_usual_order = names[-1] == field.name and related._meta.ordering
        if length < len(names) or is_usual_order:
            yield related


def _check_visitors(model, endpoint_class):
    """Find expansions that visitors of an open endpoint do not see (W006).

    A related record is shown whole only to users whom its own endpoint lets in.
    """
    if not _overrides(endpoint_class, "authenticate"):
        return
    plan = _Plan(model, endpoint_class, True)
    for related in dict.fromkeys(plan.expansions.models):
        is_open = _overrides(endpoint.find(related), "authenticate")
        if is_open or _has_only_encoder(related):
            continue
        message = (
            f"If {endpoint_class.__name__}.authenticate lets visitors in, they do not "
            f"see the records of {_label(related)} whole: its own endpoint wants a "
            "login."
        )
        hint = (
            f"Override authenticate in the endpoint of {related.__name__} too. If it "
            "has no endpoint, register an encoder for it. Or leave it out of `fields` "
            f"or `expand` of {endpoint_class.__name__}."
        )
        yield "W006", message, hint


def _check_operations(model, endpoint_class):
    """Find operations that replace those of ModelEndpoint without calling them (W007).

    The hooks that allow an operation are asked by its method.
    """
    for name, operation in _OPERATIONS.items():
        method = inspect.unwrap(getattr(endpoint_class, name))
        if method is getattr(ModelEndpoint, name) or not inspect.isfunction(method):
            continue
        if {"super", "ModelEndpoint", operation.hook}.isdisjoint(
            method.__code__.co_names
        ):
            message = (
                f"{endpoint_class.__name__}.{name} never calls "
                f"super().{name}(request), so {operation.hook} is not asked."
            )
            hint = (
                "Call it, or override another hook instead: prepare_record, "
                "save_record, delete_record or get_queryset."
            )
            yield "W007", message, hint


def _check_totals(model, endpoint_class):
    """Find lists that count the records which can_get refuses (W003).

    By searching and filtering, clients learn about these records from `total`.
    """
    if not endpoint_class._offers("list"):
        return
    has_list = _overrides(endpoint_class, "can_list")
    has_refusals = _overrides(endpoint_class, "can_get")
    if has_list and has_refusals and not _overrides(endpoint_class, "get_queryset"):
        message = (
            f"{endpoint_class.__name__} overrides can_get, but not get_queryset. "
            "Records that can_get refuses are counted in `total`, in searches and "
            "filters too."
        )
        hint = "Leave them out in get_queryset, or leave list out of `operations`."
        yield "W003", message, hint


#: The checks of a model and its endpoint class. Those that make a plan, for which all
#: names have to exist, come after the others.
_ENDPOINT_CHECKS = (_check_hidden_create, _check_totals, _check_operations)
_PLAN_CHECKS = (_check_sorting, _check_expansions, _check_visitors)


def _check_registries():
    """Return the messages about all that is registered."""
    served_models = []
    served_forms = []
    for served, endpoint_class in endpoint._registry.items():
        if issubclass(endpoint_class, FormEndpoint):
            served_forms.append((served, endpoint_class))
        else:
            served_models.append((served, endpoint_class))
    messages = _make_messages(_check_authentication())
    messages += _make_messages(_check_largest_page())
    messages += _make_messages(_check_old_settings())
    for model, model_encoder in encoder._registry.items():
        results = _check_encoder_names(model, model_encoder)
        messages += _make_messages(results, type(model_encoder))
    name_errors = _apply_checks([_check_names], served_models)
    messages += name_errors + _apply_checks(_ENDPOINT_CHECKS, served_models)
    if not name_errors:
        messages += _apply_checks(_PLAN_CHECKS, served_models)
        messages += _apply_checks([_check_form_replies], served_forms)
    return messages


def _apply_checks(endpoint_checks, served):
    """Return the messages of some checks about pairs of a model and its class."""
    messages = []
    for model, endpoint_class in served:
        for check in endpoint_checks:
            results = check(model, endpoint_class)
            messages += _make_messages(results, endpoint_class)
    return messages


def _make_messages(results, endpoint_class=None):
    """Return what a check yields as Django's messages about an endpoint class."""
    messages = []
    for number, text, hint in results:
        message_class = checks.Error if number.startswith("E") else checks.Warning
        messages.append(message_class(text, hint, endpoint_class, f"ajax.{number}"))
    return messages


def _run_checks(app_configs=None, **kwargs):
    """Return the messages of all checks, for Django's system check framework."""
    messages = _make_messages(_check_imports())
    is_imported = not messages
    messages += _make_messages(_check_copies())
    if is_imported:
        messages += _make_messages(_check_exposure())
        messages += _check_registries()
    return messages


def _watch_endpoints(sender, **kwargs):
    """Let runserver reload when an endpoints.py changes whose import has failed.

    Its reloader watches only modules that were imported.
    """
    for config in apps.get_app_configs():
        if pathlib.Path(config.path).is_dir():
            sender.watch_dir(config.path, "endpoints.py")


autoreload_started.connect(_watch_endpoints)


class AjaxConfig(AppConfig):
    """The app's configuration: it adds the system checks to a project that lists the
    module in INSTALLED_APPS."""

    name = __name__

    def ready(self):
        checks.register(_run_checks)


# --- The old package's import paths ---------------------------------------------------

#: Django looks for an app's templates, static files and commands in its folder. The
#: folder that holds this file is not the app's, so the path is the file itself.
__path__ = [__file__]

_OLD_MODULES = (
    "authentication",
    "decorators",
    "encoders",
    "endpoints",
    "exceptions",
    "signals",
    "urls",
    "views",
)

if __name__ != "__main__":
    # Like os.path, `from ajax.exceptions import AJAXError` finds this module again.
    _this_module = sys.modules[__name__]
    for _name in _OLD_MODULES:
        sys.modules[f"{__name__}.{_name}"] = _this_module
        setattr(_this_module, _name, _this_module)
    # Django looks for AjaxConfig in `.apps`. It must not find `.models`.
    sys.modules[f"{__name__}.apps"] = _this_module


# --- Demo -----------------------------------------------------------------------------

#: The demo's app. The demo runs these files, and the explorer shows them.
_DEMO_FILES = {
    "demo/models.py": """\
from django.apps import apps
from django.contrib.auth.models import User
from django.db import models

class Category(models.Model):
    title = models.CharField(max_length=100)

    class Meta:
        verbose_name_plural = "categories"

class Post(models.Model):
    category = models.ForeignKey(Category, models.CASCADE, related_name="posts")
    author = models.ForeignKey(User, models.CASCADE)
    title = models.CharField(max_length=200)
    picture = models.FileField(upload_to="pictures", blank=True)
    published = models.BooleanField(default=False)
    created = models.DateTimeField(auto_now_add=True)
    liked_by = models.ManyToManyField(User, related_name="likes", blank=True)
    if apps.is_installed("taggit"):
        from taggit.managers import TaggableManager

        tags = TaggableManager(blank=True)

class Comment(models.Model):
    post = models.ForeignKey(Post, models.CASCADE, related_name="comments")
    text = models.TextField(max_length=1000)
""",
    "demo/endpoints.py": """\
import datetime
import ajax
from django.db.models import Count
from demo.models import Category, Comment, Post

def whoami(request):
    return {"username": request.user.username}

@ajax.login_required
@ajax.validated
def count_posts(request, since: datetime.date, category: Category | None = None):
    \"\"\"Count the posts since a day, of one category or of all.\"\"\"
    posts = Post.objects.filter(created__date__gte=since)
    if category:
        posts = posts.filter(category=category)
    return {"count": posts.count()}

@ajax.register(Category)
class CategoryEndpoint(ajax.ModelEndpoint):
    fields = ["title", "post_count", "posts"]  # Its posts are its children.
    annotations = {"post_count": Count("posts")}
    search_fields = ["title"]
    sortable_by = ["title", "post_count"]

    def can_list(self, user):
        return True

@ajax.register(Post)
class PostEndpoint(ajax.ModelEndpoint):
    readonly_fields = ["author", "published"]
    annotations = {"like_count": Count("liked_by")}
    search_fields = ["title"]
    sortable_by = ["title", "created", "like_count"]
    list_filter = ["category", "published"]

    def can_list(self, user):
        return True

    def prepare_record(self, request, record, created):
        if created:
            record.author = request.user

    @ajax.validated
    def publish(self, request, record):
        \"\"\"Publish a post.\"\"\"
        record.published = True
        record.save()
        return record

@ajax.register(Comment)
class CommentEndpoint(ajax.ModelEndpoint):
    search_fields = ["text"]
    list_filter = ["post"]

    def can_list(self, user):
        return True
""",
}


#: The picture of the first post.
_DEMO_PICTURE = b"""\
<svg xmlns="http://www.w3.org/2000/svg"><circle cx="50" cy="50" r="40"/></svg>
"""


def _log_in_demo(get_response):
    """Log every visitor of the demo in, as its only user."""

    def log_in(request):
        request.user = apps.get_model("auth.User").objects.get(username="demo")
        return get_response(request)

    return log_in


def _write_demo(folder):
    """Write the demo's app into a folder, and make it importable."""
    pathlib.Path(folder, "demo").mkdir(exist_ok=True)
    for name, source in _DEMO_FILES.items():
        # A vendored copy of ajax.py has another import name.
        source = source.replace("import ajax\n", f"import {__name__} as ajax\n")
        if name == "demo/endpoints.py":
            source += f"\n__doc__ = {_show_demo()!r}\n"
        pathlib.Path(folder, name).write_text(source, encoding="utf-8")
    sys.path.insert(0, folder)


def _show_demo():
    """Return the demo's files as one text, with which the explorer begins."""
    texts = [f"# {name}\n{source}" for name, source in _DEMO_FILES.items()]
    return "\n".join(texts)


def _fill_demo():
    """Create the demo's user, two categories, and posts with tags and comments."""
    user = apps.get_model("auth.User").objects.create(username="demo")
    categories = apps.get_model("demo.Category").objects
    news = categories.create(title="News")
    categories.create(title="Recipes")
    post = _create_demo_post(news, user, "Ten minutes of work", "ajax")
    post.liked_by.add(user)
    post.picture.save("circle.svg", ContentFile(_DEMO_PICTURE))
    for text in ("Does it work?", "It does."):
        post.comments.create(text=text)
    _create_demo_post(news, user, "No tears", "json")


def _create_demo_post(category, user, title, tag):
    posts = apps.get_model("demo.Post").objects
    post = posts.create(category=category, author=user, title=title)
    if hasattr(post, "tags"):
        post.tags.add("django", tag)
    return post


def _demo_settings(folder):
    """Return the demo's settings, with its database in a folder."""
    demo_urls = types.ModuleType("demo_urls")
    to_explorer = RedirectView.as_view(pattern_name="ajax:explorer")
    demo_urls.urlpatterns = [
        path("", to_explorer),
        path("ajax/", include(__name__)),
        path("media/<path:path>", serve, {"document_root": f"{folder}/media"}),
    ]
    installed_apps = ["django.contrib.contenttypes", "django.contrib.auth"]
    if importlib.util.find_spec("taggit"):
        installed_apps.append("taggit")
    installed_apps += [__name__, "demo"]
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{folder}/demo.sqlite3",
    }
    return {
        "DEBUG": True,
        "SECRET_KEY": uuid.uuid4().hex * 2,
        "ROOT_URLCONF": demo_urls,
        "MIDDLEWARE": [
            # It refuses requests that name another host.
            "django.middleware.common.CommonMiddleware",
            f"{__name__}._log_in_demo",
        ],
        "INSTALLED_APPS": installed_apps,
        "DATABASES": {"default": database},
        "MEDIA_ROOT": f"{folder}/media",
        "MEDIA_URL": "/media/",
    }


def _print_welcome(address):
    """Tell the visitor where to look, and print a call to copy."""
    print(f"Open http://{address}/ to see all calls and to try them.")
    print("Or make a call in a terminal:")
    # Any CSRF token is right if cookie and header have the same.
    token = "x" * 32
    curl = f"curl -b csrftoken={token} -H X-CSRFToken:{token} -d q="
    print(f"{curl} http://{address}/ajax/demo/post/1/get.json", flush=True)


def _serve_demo():
    """Serve the demo on 127.0.0.1 until Ctrl-C is pressed.

    The port is the first argument of the command line, by default 8000.
    """
    import tempfile

    import django
    from django.core.management import call_command

    port = sys.argv[1] if len(sys.argv) > 1 else "8000"
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        _write_demo(folder)
        settings.configure(**_demo_settings(folder))
        django.setup()
        call_command("migrate", run_syncdb=True, verbosity=0)
        _fill_demo()
        _print_welcome(address)
        call_command("runserver", address, use_reloader=False)


# --- The page's texts -----------------------------------------------------------------

_CLIENT = r"""/** Call the endpoints of ajax.py: `await ajax("blog/post/1/update", {title: "Hello again"})`.
 *
 * The data is an object, which may hold files, a FormData, a URLSearchParams, a <form>, or its
 * submit event. The options may hold a signal. A call that fails throws an AJAXError. */
const COOKIE_NAME = "csrftoken";
const HEADER_NAME = "X-CSRFToken";
const INPUT_NAME = "csrfmiddlewaretoken";
const TIME_ZONE = "UTC";
let freshToken; // It came with a refusal: a login changes the token.
let errorCount = 0;

export default async function ajax(path, data, options) {
  return (await ajax.reply(path, data, options)).data;
}

/** Return the whole reply: a list has `total` and the like beside `data`. */
ajax.reply = async (path, data, options) => {
  const response = await ajax.fetch(path, data, options);
  const reply = await receive(response.clone().json(), path, options);
  if (reply?.success === true && "data" in reply) return reply;
  const message = reply?.success === false && reply.data?.message;
  if (typeof message === "string") throw new AJAXError(message, {path, response, reply});
  const type = response.headers.get("Content-Type") ?? "no content type";
  const answer = `${response.url} answered ${response.status} with ${type}`;
  throw new AJAXError(`${answer}, which is not a reply of ajax.py.`, {path, response});
};

/** Return the Response itself, which may hold HTML or a file. */
ajax.fetch = async (path, data = {}, options) => {
  const body = encode(data);
  const response = await send(path, body, options);
  if (response.status !== 403) return response;
  const reply = await receive(response.clone().json(), path, options);
  if (typeof reply?.csrf !== "string") return response;
  freshToken = reply.csrf;
  return send(path, body, options);
};

/** Put errors behind those inputs of a form that can be seen. Return the text of all others. */
ajax.showErrors = (form, {errors, message}) => {
  form.dispatchEvent(new Event("ajax-clear"));
  const isNamed = isObject(errors) && !Array.isArray(errors);
  const texts = [];
  const wrongInputs = [];
  for (const [name, value] of Object.entries(isNamed ? errors : {__all__: errors})) {
    const text = joinTexts(value);
    const inputs = getInputs(form, name).filter(isVisible);
    if (inputs.length > 0) showError(form, inputs, text);
    else if (text) texts.push(name === "__all__" ? text : `${name}: ${text}`);
    wrongInputs.push(...inputs);
  }
  getInputs(form).find(input => wrongInputs.includes(input))?.focus();
  return texts.join("\n") || (wrongInputs.length > 0 ? "" : message);
};

/** Fill a form from a record. Return the names of the values that its inputs cannot show. */
ajax.fill = (form, record) =>
  Object.keys(record).filter(name => !fillInputs(getInputs(form, name), record[name]));

/** A failed call. Its code is the HTTP status, or 0 without a response. */
export class AJAXError extends Error {
  constructor(message, {path, response, reply, cause} = {}) {
    super(message);
    const {errors, hint, login_url: login} = reply ?? {};
    const url = login && new URL(login, location);
    const origin = url?.origin === location.origin ? location.origin : "";
    url?.searchParams.set("next", location.href.slice(origin.length));
    Object.assign(this, {name: "AJAXError", path, code: response?.status ?? 0, errors, hint});
    Object.assign(this, {loginUrl: url?.href, reply, response, cause});
  }
}

/** Wait for the network. Return undefined for a text that is no JSON. */
function receive(promise, path, options) {
  return promise.catch(cause => {
    if (cause instanceof SyntaxError) return;
    const isAborted = options?.signal?.aborted; // Its cause may be anything.
    const message = isAborted ? "The call was aborted." : "The server cannot be reached.";
    throw new AJAXError(message, {path, cause});
  });
}

function send(path, body, options) {
  const segments = String(path ?? "").split("/");
  if (segments.some(segment => ["", ".", ".."].includes(segment))) {
    throw new TypeError(`Write a path such as blog/post/create, not "${path}".`);
  }
  const url = new URL(`${segments.map(encodeURIComponent).join("/")}.json`, import.meta.url);
  const headers = {[HEADER_NAME]: findToken()};
  if (typeof body === "string") headers["Content-Type"] = "application/json";
  const request = fetch(url, {method: "POST", headers, body, signal: options?.signal});
  return receive(request, path, options);
}

function findToken() {
  // Of several cookies with this name, Django takes the last.
  const cookies = document.cookie.split("; ").reverse();
  const cookie = cookies.find(cookie => cookie.startsWith(`${COOKIE_NAME}=`));
  const input = document.querySelector(`[name=${INPUT_NAME}]`);
  return freshToken ?? cookie?.slice(COOKIE_NAME.length + 1) ?? input?.value ?? "";
}

function encode(data) {
  if (data instanceof HTMLFormElement) return encode(readForm(data));
  if (data instanceof Event && data.type === "submit") {
    return encode(readForm(data.target, data.submitter));
  }
  if (!(data instanceof FormData || data instanceof URLSearchParams)) return encodeJSON(data);
  const body = new data.constructor();
  for (const [name, value] of data) body.append(name, value);
  body.delete(INPUT_NAME); // It may be older than the cookie.
  return body;
}

/** Read a form, with what browsers leave out: unticked boxes and lists without a choice. */
function readForm(form, button) {
  const body = new FormData(form);
  const inputs = getInputs(form).filter(input => !input.matches(":disabled"));
  for (const {name, type, value} of inputs) {
    if (!name || body.has(name) || !/^(checkbox|select-multiple)$/.test(type)) continue;
    const isAlone = inputs.filter(input => input.name === name).length === 1;
    body.append(name, isAlone && /^(on|true)$/i.test(value) ? "false" : "");
  }
  if (button?.name) body.append(button.name, button.value);
  return body;
}

/** Return the inputs of a form, or those for a key: the name of a list may end with []. */
function getInputs(form, key) {
  // An input may be called "elements".
  const elements = Array.from(Reflect.get(HTMLFormElement.prototype, "elements", form));
  const inputs = elements.filter(({type}) => !/^(button|fieldset|output|reset|submit)$/.test(type));
  return inputs.filter(({name}) => key === undefined || name === key || name === `${key}[]`);
}

/** Turn data into JSON or, if it holds files, into a form with all else as one part of JSON. */
function encodeJSON(data) {
  const form = new FormData();
  const text = JSON.stringify(data, function (key, value) {
    // `this` holds the value. Only an object's own values may be files.
    const isOwn = this === data && !Array.isArray(data);
    const list = isOwn && value instanceof FileList ? Array.from(value) : value;
    const files = [list].flat();
    const areFiles = files.length > 0 && files.every(file => file instanceof Blob);
    if (!isOwn || !areFiles) return checkValue(key, list);
    for (const file of files) form.append(file === list ? key : `${key}[]`, file);
  });
  if (text === undefined) throw new TypeError(`JSON cannot hold this ${typeof data}.`);
  if (form.keys().next().done) return text;
  form.append("application/json", text);
  return form;
}

/** Return a value that JSON can hold; it would turn a Map, a file or an element into {}. */
function checkValue(key, value) {
  const kind = value?.constructor?.name ?? "Object";
  if (!isObject(value) || Array.isArray(value) || kind === "Object") return value;
  const isOfPage = [Event, FileList, Node].some(type => value instanceof type);
  if (!isOfPage && Object.keys(value).length > 0) return value;
  throw new TypeError(`JSON cannot hold this ${kind}${key && ` (in "${key}")`}.`);
}

/** Put a text behind inputs, until one of them changes or the form is reset. */
function showError(form, inputs, textContent) {
  const element = document.createElement("span");
  const id = `ajax-error-${++errorCount}`;
  Object.assign(element, {id, textContent, className: "ajax-error"}).setAttribute("role", "alert");
  const lastInput = inputs[inputs.length - 1];
  (lastInput.closest("label") ?? lastInput).after(element);
  const oldIds = inputs.map(input => input.getAttribute("aria-describedby") ?? "");
  const mark = (isWrong, newId) => inputs.forEach((input, index) => {
    input.setAttribute("aria-invalid", isWrong);
    input.setAttribute("aria-describedby", `${oldIds[index]} ${newId}`.trim());
  });
  const clear = () => {
    if (element.isConnected) mark(false, "");
    element.remove();
  };
  mark(true, id);
  for (const type of ["reset", "ajax-clear"]) form.addEventListener(type, clear);
  const read = () => inputs.map(({value, checked}) => value + checked).join();
  const wrongValue = read();
  for (const input of inputs) {
    input.addEventListener("input", clear);
    // Whoever leaves a box fires one, too, though its value is the wrong one still.
    input.addEventListener("change", () => read() === wrongValue || clear());
  }
}

/** Fill the inputs of one name with a value. Return whether they show it. */
function fillInputs(inputs, value) {
  const boxes = inputs.filter(({type}) => type === "checkbox" || type === "radio");
  const selects = inputs.filter(({options}) => options);
  const choices = boxes.concat(...selects.map(({options}) => Array.from(options)));
  if (choices.length === 0) return inputs.map(input => fillText(input, value)).every(Boolean);
  const isBoolean = typeof value === "boolean";
  const isTick = isBoolean && choices.length === 1 && choices[0].type === "checkbox";
  const texts = findTagNames(value) ?? [value ?? ""].flat().map(item => toText(item));
  const read = choice => isBoolean ? choice.value.toLowerCase() : choice.value;
  for (const select of selects) select.selectedIndex = -1;
  for (const choice of choices) {
    const isChosen = isTick ? value : texts.includes(read(choice));
    if (boxes.includes(choice)) choice.checked = isChosen;
    else if (isChosen) choice.selected = true;
  }
  const shown = choices.filter(({checked, selected}) => checked || selected).map(read);
  return isTick || value === null || texts.every(text => shown.includes(text));
}

function fillText(input, value) {
  const {type} = input;
  if (type === "file") return value === null;
  const isTime = /time/.test(type);
  const text = isTime || type === "date" ? toServerTime(value) : toText(value, type);
  // A date shows no time, and a time no more than milliseconds.
  if (type === "date") input.value = text.slice(0, 10);
  else input.value = isTime ? text.replace(/(\.\d{3})\d+$/, "$1") : text;
  if (input.validity?.stepMismatch) input.step = "any";
  if (isTime) return !text === !input.value && !/\.\d{3}\d*[1-9]/.test(text);
  return input.value === text.replace(/\r\n?/g, "\n");
}

/** Return a value as a form sends it: a record as its pk, tags as taggit reads them. */
function toText(value, type) {
  if (!isObject(value)) return String(value ?? "");
  const names = findTagNames(value);
  if (type === "textarea" && !names?.length) return JSON.stringify(value);
  if (names?.some(name => name.includes('"'))) return JSON.stringify(names);
  if (names) return names.map(name => /[ ,]/.test(name) ? `"${name}"` : name).join(", ");
  return String(value.pk ?? JSON.stringify(value));
}

/** Return a date-time as the server's clock shows it, and any other text as it is. */
function toServerTime(value) {
  const pattern = /^(.+T[\d:]+)(\.\d+)?(Z|[+-][\d:]+)$/;
  return String(value ?? "").replace(pattern, (_text, time, fraction = "", offset) => {
    const local = new Date(time + offset).toLocaleString("sv", {timeZone: TIME_ZONE});
    return local.replace(" ", "T") + fraction;
  });
}

/** Return the names of a list of tags, or undefined for any other value. */
function findTagNames(value) {
  const isTag = item => isObject(item) && Object.keys(item).sort().join() === "name,pk,slug";
  return Array.isArray(value) && value.every(isTag) ? value.map(tag => tag.name) : undefined;
}

const isObject = value => typeof value === "object" && value !== null;

/** Join the texts of an error, which may have any shape. */
const joinTexts = value =>
  isObject(value) ? Object.values(value).map(joinTexts).join(" ") : String(value ?? "");

/** Return whether an input can be seen. In a closed <details> it has a place, too. */
const isVisible = input =>
  input.getClientRects().length > 0 && !input.closest("details:not([open])") &&
  getComputedStyle(input).visibility === "visible";
"""  # noqa: E501

_EXPLORER = r"""/** The explorer: it shows the calls that openapi.json describes, and makes them by client.js. */
import ajax, {AJAXError} from "./client.js";

/** The longest text of a reply that is shown whole, and as a table if it is a list. */
const MAX_LENGTH = 500_000;

const api = await loadDescription();
const calls = Object.entries(api.paths ?? {}).map(([path, item]) => makeCall(path, item));

/** The last pk that was typed or created, by the group of its call. */
const lastPks = {};

// --- Elements ---

const find = selector => document.querySelector(selector);
const start = find("#start");

/** Make an element like "div.line", with properties or attributes. No text is read as HTML. */
function element(name, properties, ...children) {
  const [tag, className] = name.split(".");
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [key, value] of Object.entries(properties)) {
    if (key in node) node[key] = value;
    else if (value) node.setAttribute(key, value);
  }
  return replace(node, ...children);
}

/** Replace the children of an element. Those that are false or empty are left out. */
function replace(node, ...children) {
  node.replaceChildren(...children.filter(Boolean));
  return node;
}

/** Make an element of a project's text, in which `backticks` become code. */
function prose(name, text) {
  const parts = String(text ?? "").split(/`([^`\n]+)`/);
  const children = parts.map((part, index) => index % 2 ? element("code", {}, part) : part);
  return element(name, {dir: "auto"}, ...children);
}

function button(text, onclick, properties) {
  return element("button", {type: "button", onclick, ...properties}, text);
}

/** Make a table of titles and of rows of cells. */
function table(titles, rows, ...caption) {
  const heads = titles.map(title => title.tagName ? title : element("th", {scope: "col"}, title));
  const head = element("thead", {}, element("tr", {}, ...heads));
  const body = element("tbody", {}, ...rows.map(cells => element("tr", {}, ...cells)));
  return element("table", {}, ...caption, head, body);
}

// --- Calls ---

/** Load openapi.json. If that fails, return an object that says why. */
async function loadDescription() {
  const response = await fetch("openapi.json").catch(() => {});
  const reply = await response?.json().catch(() => {});
  if (typeof reply?.paths === "object") return reply;
  const answer = response ? `The server answered ${response.status}.` : "No reply.";
  const message = reply?.data?.message ?? "";
  return {problem: `openapi.json cannot be loaded. ${answer} ${message}`, reply};
}

/** Describe the call of one path. Its group is that of all calls of its model. */
function makeCall(path, {post, parameters}) {
  const name = path.slice(1).replace(".json", "");
  const schema = post.requestBody?.content["application/json"].schema;
  const call = {...post, ...extras(post), name, schema};
  const keys = Object.keys(getProperties(call));
  call.words = [name, call.summary, call.description, call.who, ...keys].join(" ").toLowerCase();
  // It matches a path, a URL, and a line of JavaScript.
  const segments = name.replace("{pk}", "([^/\"'`]+)").replace(/(\/create)$/, "(?:$1)?");
  call.pattern = new RegExp(`(?:^|[/#"'\`])${segments}(?:\\.json)?(?:$|["'\`])`);
  call.group = post.tags[0];
  call.prefix = name.replace(/[^/]+$/, "");
  call.operation = name.slice(call.prefix.length);
  call.pkSchema = parameters?.[0].schema;
  return call;
}

/** Return what ajax.py adds to a description of OpenAPI. */
function extras(description) {
  return description?.["x-ajax"] ?? {};
}

/** Return the schemas of what a call takes, by key. What takes anything has one, of a body. */
function getProperties({schema}) {
  return schema?.properties ?? (schema ? {body: schema} : {});
}

/** Return the call that a path, URL or line of JavaScript names, and the pk in it. */
function findCall(text) {
  const matches = calls.map(call => ({call, match: call.pattern.exec(text.trim())}));
  const [best] = matches.filter(({match}) => match)
    // The longest one.
    .sort((first, second) => first.match.index - second.match.index);
  // Unlike decodeURIComponent, this never throws.
  const pk = new URLSearchParams(`pk=${best?.match[1] ?? ""}`).get("pk");
  return {call: best?.call, pk: pk === "{pk}" ? "" : pk};
}

/** Return the address of a call, with a pk if there is one. */
function makeHash(call, pk = "") {
  return `#${call.name.replace("{pk}", () => encodeURIComponent(pk) || "{pk}")}`;
}

function getCall(name) {
  return calls.find(call => call.name === name);
}

// --- Schemas in words ---

const WORDS = {
  JSON: "any JSON",
  string: "text",
  integer: "whole number",
  boolean: "true or false",
  binary: "file",
  byte: "base64",
  "time-local": "time",
};

/** Return the types of a schema; a schema without a type takes any JSON. */
function getTypes(schema) {
  return [schema.type ?? "JSON"].flat();
}

function isNullable(schema) {
  return getTypes(schema).slice(1).includes("null");
}

/** Return the path of the model that a key, or each key of a list, refers to. */
function getModel(schema) {
  return extras(schema).pk_of ?? extras(schema.items).pk_of;
}

/** Describe in words what a schema takes. */
function describe(schema) {
  const {$ref, anyOf, format, items} = schema;
  const [type] = getTypes(schema);
  let text = WORDS[format ?? type] ?? format ?? type;
  if ($ref) text = `record of ${$ref.replace(/^.*\//, "").replace(".", "/")}`;
  else if (anyOf) text = anyOf.map(describe).join(", or ");
  else if (extras(schema).pk_of) text = `pk of ${extras(schema).pk_of}`;
  else if (type === "array") text = `list (${describe(items)})`;
  if (isNullable(schema)) text += " or null";
  return text;
}

/** Return the schema that a reference names, or the schema itself. */
function resolve(schema = {}) {
  const {$ref, anyOf} = schema;
  if (anyOf) return resolve(anyOf[0]);
  return $ref ? api.components.schemas[$ref.replace(/^.*\//, "")] : schema;
}

/** Make the terms of what a call gives back: the keys of its data and of what stands beside it. */
function makeOutline(call) {
  const {schema} = call.responses[200].content["application/json"];
  const {success, data, ...beside} = schema.properties;
  const {items, properties = {}} = resolve(data);
  const keys = Object.entries(items ? resolve(items).properties ?? {} : properties);
  const terms = keys.map(([name, schema]) => [`data${items ? "[0]" : ""}.${name}`, schema]);
  return [["data", data], ...terms, ...Object.entries(beside)].flatMap(([name, schema]) =>
    [element("dt", {}, name), element("dd", {}, describe(schema))]);
}

// --- Fields ---

/** Make a field: its name and type, its box, buttons for what cannot be typed, and help. */
function makeField(call, name, schema, isRequired) {
  const id = `${call.name}:${name}`;
  const box = makeBox(schema);
  box.setAttribute("aria-describedby", `${id}-type ${id}-help`);
  Object.assign(box, {id, name});
  const specials = getSpecials(call, schema, isRequired).map(value => {
    const text = JSON.stringify(value);
    const label = `Send ${text} as ${name}`;
    return element("input", {type: "checkbox", value: text, "aria-label": label});
  });
  const labels = specials.map(special =>
    element("label.special", {}, special, special.value));
  const note = element("span.note", {role: "status", dir: "auto"});
  const options = element("select.options", {"aria-label": "Records", size: 8});
  const field = {name, schema, box, specials, note, options};
  const required = isRequired && element("strong", {}, ", required");
  field.row = element("div.field", {},
    element("label", {htmlFor: id}, name),
    element("small", {id: `${id}-type`}, describe(schema), required),
    element("div.line", {}, box, options, ...labels),
    element("small", {id: `${id}-help`}, note, prose("span", schema.description)),
  );
  field.row.oninput = ({target}) => {
    note.textContent = "";
    for (const special of specials) special.checked &&= special === target;
  };
  addSearch(field);
  return field;
}

const INPUT_TYPES = {
  binary: "file",
  date: "date",
  "date-time": "datetime-local",
  "time-local": "time",
};

/** Make the box in which a value is typed or chosen. */
function makeBox(schema) {
  const [type] = getTypes(schema);
  const {multiline, version, sortable_by: names, choices = schema.oneOf} = extras(schema);
  if (names) return makeSelect(names.flatMap(name => [{const: name}, {const: `-${name}`}]));
  if (choices) return makeSelect(choices);
  if (schema.items?.oneOf) return makeSelect(schema.items.oneOf, true);
  if (schema.items?.format === "binary") return element("input", {type: "file", multiple: true});
  if (type === "boolean") return makeSelect([{const: true}, {const: false}]);
  if (multiline || isJSON(schema)) return element("textarea", {});
  return element("input", {type: version ? "text" : INPUT_TYPES[schema.format] ?? "text"});
}

/** Make a select. What is empty or null is a special value. */
function makeSelect(choices, multiple = false) {
  const options = choices.filter(choice => choice.const !== null && choice.const !== "")
    .map(({const: value, title = String(value)}) => element("option", {value}, title));
  if (!multiple) options.unshift(element("option", {value: ""}, "not sent"));
  return element("select", {multiple}, ...options);
}

/** Return the values of a field that cannot be typed: null, the empty text, the empty list. */
function getSpecials(call, schema, isRequired) {
  const specials = isNullable(schema) ? [null] : [];
  if (isRequired || call.operation === "list") return specials;
  if (isPlainText(schema) || schema.oneOf?.some(choice => choice.const === "")) specials.push("");
  if (getTypes(schema)[0] === "array") specials.push([]);
  return specials;
}

function isJSON(schema) {
  return ["JSON", "object"].includes(getTypes(schema)[0]);
}

function isPlainText(schema) {
  return getTypes(schema)[0] === "string" && !schema.format && !schema.oneOf && !getModel(schema);
}

/** Return the data of a view's fields. Mark a box whose text cannot be read. */
function readFields({call, fields}) {
  const data = {};
  for (const field of fields) {
    field.box.setCustomValidity("");
    try {
      const value = readChange(field);
      if (value !== undefined) data[field.name] = value;
    } catch (error) {
      field.box.setCustomValidity(error.message);
    }
  }
  return call.schema?.properties ? data : data.body;
}

/** Return the value of a field, or undefined if it is what was loaded from the record. */
function readChange(field) {
  const {schema, loaded} = field;
  const value = readField(field);
  if (loaded === undefined || extras(schema).version) return value;
  if (JSON.stringify({value}) === loaded) return undefined;
  if (value !== undefined) return value;
  if (getTypes(schema)[0] === "array") return [];
  return isNullable(schema) && !isPlainText(schema) ? null : "";
}

/** Return the value of a field, or undefined if nothing is to be sent. */
function readField({box, schema, specials}) {
  const special = specials.find(({checked}) => checked);
  if (special) return JSON.parse(special.value);
  if (box.type === "file") return box.multiple && box.value ? [...box.files] : box.files[0];
  if (box.value === "") return undefined;
  if (box.multiple) {
    return Array.from(box.selectedOptions, ({value}) => readText(value, schema.items));
  }
  return readText(box.value, schema);
}

/** Return the value that a text stands for. Keys and numbers with commas between are a list. */
function readText(text, schema) {
  const [type, ...others] = getTypes(schema);
  const mayBeList = others.includes("array") && (type === "integer" || getModel(schema));
  if (type === "array" ? !text.startsWith("[") : mayBeList && text.includes(",")) {
    const items = text.split(",").map(item => item.trim());
    return items.filter(Boolean).map(item => readText(item, schema.items ?? {type: "string"}));
  }
  if (type === "string") return text;
  if (type !== "integer" && type !== "number") return JSON.parse(text);
  // A text that is no number, or would lose digits, is sent as it is.
  return String(Number(text)) === text ? Number(text) : text;
}

/** Fill the fields of a view from a record, and remember what was filled in. */
function fillView(view, record) {
  const form = view.part("form");
  for (const field of view.fields.filter(({name}) => name in record)) {
    const {name, schema, box, specials, note} = field;
    const stored = record[name];
    for (const special of specials) special.checked = false;
    ajax.fill(form, {[name]: toPlain(stored, field)});
    note.textContent = stored?.pk === undefined ? "" : getTitle(stored);
    if (box.type === "file" && stored) note.textContent = `Now: ${stored}`;
    field.loaded = JSON.stringify({value: readField(field)});
  }
  ajax.showErrors(form, {});
}

/** Return a record as its pk, and tags as their names; what a box cannot show as a text. */
function toPlain(value, {schema, box}) {
  if (isJSON(schema) && value !== null) return JSON.stringify(value, null, 2);
  if (!Array.isArray(value)) return value?.pk ?? value;
  const items = value.map(item => item?.slug ? item.name : item?.pk ?? item);
  const isSimple = !box.multiple && !items.some(item => /^\[|,/.test(item));
  return isSimple ? items.join(", ") : items;
}

/** Return the first text of a record that is no number or date, or else its pk. */
function getTitle({pk, ...values}) {
  const isTitle = value => typeof value === "string" && /^\D/.test(value);
  return Object.values(values).find(isTitle) ?? String(pk);
}

// --- Searching for a related record ---

/** Let a box that takes a pk search the list of its model, where there is one. */
function addSearch(field) {
  const {box, options, note, schema} = field;
  const list = getCall(`${getModel(schema)}/list`);
  if (!list || list.who.startsWith("Nobody")) return;
  box.placeholder = "Words, or a pk";
  box.oninput = ({isTrusted}) => isTrusted && showOptions(field, list, box.value);
  box.onclick = () => showOptions(field, list, "");
  box.onkeydown = ({key}) => {
    if (key === "ArrowDown") options.focus();
  };
  options.onchange = () => {
    const earlier = schema.items ? box.value.replace(/[^,]*$/, "") : "";
    box.value = `${earlier}${earlier && " "}${options.value}`;
    box.dispatchEvent(new Event("input", {bubbles: true}));
    note.textContent = options.selectedOptions[0].label;
  };
  options.onclick = () => {
    options.replaceChildren();
    box.focus();
  };
  options.onkeydown = event => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // It would send the form.
    options.onclick();
  };
}

/** Show the records that are found by a text, or by what stands behind its last comma. */
async function showOptions({box, options, note, schema}, list, words) {
  const typed = box.value;
  await new Promise(resolve => setTimeout(resolve, 200));
  if (box.value !== typed) return;
  const text = (schema.items ? words.replace(/^.*,/, "") : words).trim();
  const data = text && getProperties(list).search ? {search: text} : {};
  const records = await ajax(list.name, data).catch(() => []);
  if (box.value !== typed) return;
  options.replaceChildren(...records.map(record =>
    element("option", {value: record.pk}, `${getTitle(record)} (${record.pk})`)));
  note.textContent = `Choices: ${options.length}.`;
}

// --- The same call as code ---

/** Return whether a value is a file, or a list of files. */
function isFile(value) {
  return [value].flat()[0] instanceof File;
}

/** Write a call as a line of JavaScript. A file is that of an input. */
function writeJavaScript(call, path, data = {}) {
  const name = call.operation === "list" ? "ajax.reply" : "ajax";
  let literal = JSON.stringify(data);
  if (call.schema?.properties) {
    const members = Object.entries(data).map(([key, value]) => {
      const file = Array.isArray(value) ? "input.files" : "input.files[0]";
      const text = isFile(value) ? file : JSON.stringify(value);
      return `${/^[a-z_$][\w$]*$/i.test(key) ? key : JSON.stringify(key)}: ${text}`;
    });
    literal = `{${members.join(", ")}}`;
  }
  return `await ${name}("${path}"${literal === "{}" ? "" : `, ${literal}`});`;
}

/** Write a call as a line for curl. */
function writeCurl(path, data = {}) {
  const {csrf, csrfCookie, session} = api.components.securitySchemes;
  // Django accepts any token that equals the cookie.
  const token = csrfCookie ? "0".repeat(32) : find("[name=csrfmiddlewaretoken]").value;
  const url = new URL(`${path.split("/").map(encodeURIComponent).join("/")}.json`, import.meta.url);
  const files = Object.entries(Object(data)).filter(([, value]) => isFile(value));
  const json = JSON.stringify(data, (key, value) => isFile(value) ? undefined : value);
  const cookies = [];
  if (session) cookies.push(`${session.name}=$SESSION`);
  if (csrfCookie) cookies.push(`${csrfCookie.name}=${token}`);
  const lines = [`curl ${quote(url.href)}`];
  if (files.length > 0) lines.push(`--form-string ${quote(`application/json=${json}`)}`);
  else lines.push("-H 'Content-Type: application/json'", `-d ${quote(json)}`);
  for (const [name, value] of files) {
    const key = Array.isArray(value) ? `${name}[]` : name;
    for (const file of [value].flat()) lines.push(`-F ${quote(`${key}=@${file.name}`)}`);
  }
  lines.push(`-H '${csrf.name}: ${token}'`, `-b "${cookies.join("; ")}"`);
  lines.push(`-e ${location.origin}/`);
  return lines.join(" \\\n  ");
}

/** Quote a text for a shell. */
function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Copy the code below a button. Over http, browsers let only a selection be copied. */
function copyCode({target}) {
  const head = target.parentElement;
  getSelection().selectAllChildren(head.nextElementSibling);
  if (document.execCommand("copy")) head.querySelector("small").textContent = "Copied.";
}

// --- One call ---

/** Return the view of a call, which is made once, and put a pk into its box. */
function getView(call, pk) {
  // What was typed stays in a view.
  const view = call.view ??= makeView(call);
  const newPk = pk || lastPks[call.group];
  if (view.pkField && newPk && newPk !== view.pkField.box.value) {
    view.pkField.box.value = newPk;
    loadRecord(view);
  }
  showCode(view);
  // What was read before may have changed since.
  if (!view.part(".reply").hidden && ["get", "list"].includes(call.operation)) submit(view);
  return view;
}

/** Make the view of a call: fill a copy of the page's template. */
function makeView(call) {
  const {pkSchema, schema, asks, operation} = call;
  const article = find("#call").content.firstElementChild.cloneNode(true);
  const part = selector => article.querySelector(selector);
  part("h2").textContent = call.name;
  part("h2").after(prose("p", `${call.summary}\n${call.description}`.trim()));
  part(".who").append(call.who);
  part("dl").append(...makeOutline(call));
  const pkField = pkSchema && makeField(call, "pk", pkSchema, true);
  const fields = Object.entries(getProperties(call)).map(([name, property]) =>
    makeField(call, name, property, schema.required?.includes(name)));
  part("form").prepend(...[pkField, ...fields].filter(Boolean).map(({row}) => row));
  // The fields of a call that changes a record are those which `get` reads.
  const isLoaded = (operation === "update" || asks) && getCall(`${call.prefix}get`);
  const view = {call, article, part, fields, pkField, isLoaded};
  part(isLoaded ? ".filled" : ".empty").hidden = fields.length === 0;
  if (asks) Object.assign(part("[type=submit]"), {className: "danger", textContent: operation});
  const load = () => loadRecord(view);
  if (pkField) Object.assign(pkField.box, {required: true, onchange: load});
  if (isLoaded) pkField.box.after(button("Load", load));
  for (const copyButton of article.querySelectorAll(".head button")) copyButton.onclick = copyCode;
  part("form").oninput = ({target}) => {
    const page = part("[name=current_page]");
    // What is looked for begins with its first page.
    if (page && page !== target) page.value = "";
    part(".status").replaceChildren();
    showCode(view);
  };
  part("form").onsubmit = event => {
    event.preventDefault();
    submit(view);
  };
  return view;
}

/** Return the path of a call, with the pk in its box. */
function getPath({call, pkField}) {
  return call.name.replace("{pk}", () => pkField.box.value || "{pk}");
}

/** Write a call with the values in its boxes as code. */
function showCode(view) {
  const data = readFields(view);
  const path = getPath(view);
  view.part("[aria-label=JavaScript]").textContent = writeJavaScript(view.call, path, data);
  view.part("[aria-label=curl]").textContent = writeCurl(path, data);
}

/** Remember the pk in the box, and fill the fields if the view shows the record. */
async function loadRecord(view) {
  const {call, part, pkField, isLoaded} = view;
  const pk = lastPks[call.group] = pkField.box.value;
  if (!isLoaded || !pk) return;
  const path = `${call.prefix.replace("{pk}", () => pk)}get`;
  const record = await ajax(path).catch(error => error);
  // Only the answer for the last pk counts.
  if (pk !== pkField.box.value) return;
  const {message} = record instanceof Error ? record : {};
  replace(part(".status"), prose("small", message ?? "The record is loaded."));
  pkField.note.textContent = message ? "" : getTitle(record);
  if (!message) fillView(view, record);
  showCode(view);
}

/** Send what a form holds, if the user agrees, and show the reply. One call at a time. */
async function submit(view) {
  const {call, part} = view;
  const path = getPath(view);
  const data = readFields(view);
  const submitButton = part("[type=submit]");
  if (submitButton.ariaDisabled === "true" || !part("form").reportValidity()) return;
  if (call.asks && !confirm(`${call.asks}\n${path}`)) return;
  submitButton.ariaDisabled = "true";
  for (const {options} of view.fields) options.replaceChildren();
  replace(part(".status"), "Calling …");
  const answer = await callServer(path, data).catch(error => ({error, text: ""}));
  submitButton.ariaDisabled = "false";
  showAnswer(view, answer);
}

/** Make a call; return its response, its reply as text and as a value, and its error. */
async function callServer(path, data) {
  const startTime = Date.now();
  const response = await ajax.fetch(path, data);
  const blob = await response.blob();
  const line = `${Date.now() - startTime} ms, ${blob.size} bytes`;
  let text = /^text|json/.test(blob.type) ? await blob.text() : blob.type;
  const reply = await new Response(text).json().catch(() => {});
  if (reply !== undefined) text = JSON.stringify(reply, null, 2);
  if (reply?.success !== false) return {response, line, text, reply, error: {}};
  const error = new AJAXError(reply.data?.message, {response, reply});
  return {response, line, text, reply, error};
}

/** Show an answer: its status in the bar, errors beside the fields, and the reply. */
function showAnswer(view, {response, line, text, reply, error}) {
  const {call, part} = view;
  const rest = ajax.showErrors(part("form"), error);
  const {message, hint, loginUrl} = error;
  const problem = [message, rest !== message && rest, hint].filter(Boolean).join("\n");
  const ignored = reply?.ignored?.join?.(", ");
  const chip = response ? `${response.status} ${response.statusText}` : "No reply";
  replace(
    part(".status"),
    element(`strong.chip ${response?.ok ? "good" : "bad"}`, {}, chip),
    line && element("small", {}, line),
    ignored && element("small", {}, `Not saved, as read-only: ${ignored}.`),
    problem && prose("span.bad", problem),
    loginUrl && element("a", {href: loginUrl}, "Log in"),
  );
  part(".outline").open = false;
  showReply(view, text, reply);
  const pk = reply?.data?.pk;
  if (call.operation === "create" && pk !== undefined) lastPks[call.group] = String(pk);
  if (call.operation === "update" && pk !== undefined) fillView(view, reply.data);
  // Of what is wrong, the first box has the focus.
  if (!find("[aria-invalid=true]")) part(".reply").scrollIntoView({block: "nearest"});
}

// --- The reply ---

/** Show a reply as a text; a list is a table, too. */
function showReply(view, text, reply) {
  const {call, part} = view;
  const data = reply?.data;
  const isLong = text.length > MAX_LENGTH;
  const isRecord = value => value?.constructor === Object;
  const isTable = !isLong && Array.isArray(data) && data.length > 0 && data.every(isRecord);
  part(".reply pre").textContent = text.slice(0, MAX_LENGTH);
  part(".reply details").open = !isTable;
  part(".reply").hidden = false;
  part(".table").hidden = !isTable;
  if (isTable) part(".table").replaceChildren(makeRows(view, data));
  replace(
    part(".reply .head"),
    isLong && `The first ${MAX_LENGTH} of ${text.length} characters.`,
    data?.pk !== undefined && makeLinks(call, data.pk),
    ...makePager(view, reply ?? {}),
  );
  // The button that was pressed may be gone.
  if (!find(":focus")) part(".reply").focus();
}

/** Make the table of a list of records. Those of a model have links to its calls. */
function makeRows(view, rows) {
  const {call} = view;
  const names = [...new Set(rows.flatMap(Object.keys))];
  const hasLinks = ["list", "similar"].includes(call.operation) && names.includes("pk");
  const titles = names.map(name => makeColumnHead(view, name));
  const body = rows.map(row => {
    const cells = names.map(name =>
      element("td", {dir: "auto"}, writeCell(row[name]).slice(0, 200)));
    return hasLinks ? [element("td", {}, makeLinks(call, row.pk)), ...cells] : cells;
  });
  return table(hasLinks ? ["Calls", ...titles] : titles, body);
}

/** Make the head of a column, which sorts where the list can be sorted by it. */
function makeColumnHead(view, name) {
  const field = view.fields.find(({schema}) => extras(schema).sortable_by?.includes(name));
  if (!field) return name;
  const order = readField(field);
  const sort = {[name]: "ascending", [`-${name}`]: "descending"}[order];
  const sortRows = () => {
    field.box.value = order === name ? `-${name}` : name;
    callPage(view, 1);
  };
  return element("th", {scope: "col", "aria-sort": sort}, button(name, sortRows));
}

/** Write a value for a cell: a record by its title, a list by its items. */
function writeCell(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.map(writeCell).join(", ");
  if (typeof value === "object") return "pk" in value ? getTitle(value) : JSON.stringify(value);
  return String(value);
}

/** Make links to the calls on a record. */
function makeLinks(call, pk) {
  const others = calls.filter(other => other.prefix === `${call.group}/{pk}/` && other !== call);
  const links = others.map(other =>
    element("a", {href: makeHash(other, pk)}, other.operation));
  return links.length > 0 && element("span.links", {}, ...links);
}

/** Make the pager of a list: which page it is, and buttons for those before and after. */
function makePager(view, {total, total_pages: pages, current_page: page}) {
  if (pages === undefined) return [];
  const turn = (text, step, disabled) =>
    button(text, () => callPage(view, page + step), {disabled});
  return [
    element("small", {}, `${total} in all, page ${page} of ${pages}`),
    turn("Previous", -1, page <= 1),
    turn("Next", 1, page >= pages),
  ];
}

/** Call a list for one of its pages. */
function callPage(view, page) {
  const field = view.fields.find(({name}) => name === "current_page");
  if (field) field.box.value = page;
  showCode(view);
  submit(view);
}

// --- The list of calls ---

/** List the calls that match the filter, beside each call and on the start page. */
function listCalls() {
  const listed = filterCalls(find("#filter").value);
  const {call: current} = findCall(location.hash);
  const groups = groupBy(listed, call => call.group).map(([name, members]) => {
    const items = members.map(call =>
      element("li", {}, makeLink(call, name, {"aria-current": call === current && "page"})));
    const summary = makeHeading("summary", name, members);
    const open = listed.length <= 60 || name === current?.group;
    return element("details", {open}, summary, element("ul", {}, ...items));
  });
  const titles = ["Call", "What it does", "Who may call"];
  const tables = groupBy(listed, call => call.name.split("/")[0]).map(([name, members]) => {
    const rows = members.map(call => {
      const head = element("th", {scope: "row"}, makeLink(call, name));
      return [head, prose("td", call.summary), prose("td", call.who)];
    });
    return table(titles, rows, makeHeading("caption", name, members));
  });
  find("#calls").replaceChildren(...groups);
  start.querySelector("#table").replaceChildren(...tables);
  return listed;
}

function makeHeading(tag, name, {length}) {
  return element(tag, {}, name, " ", element("small", {}, length));
}

/** Make a link to a call, without the beginning of its name. */
function makeLink(call, beginning, properties) {
  return element("a", {href: makeHash(call), ...properties}, call.name.slice(beginning.length + 1));
}

/** Return the call that a text names, or all calls that have each of its words. */
function filterCalls(text) {
  const {call: namedCall} = findCall(text);
  const words = text.toLowerCase().split(/\s+/);
  if (namedCall) return [namedCall];
  return calls.filter(call => words.every(word => call.words.includes(word)));
}

/** Return pairs of a key and the calls with that key. */
function groupBy(members, getKey) {
  const groups = new Map();
  for (const call of members) groups.set(getKey(call), [...groups.get(getKey(call)) ?? [], call]);
  return [...groups];
}

// --- The page ---

/** Show the call that the address names, or the start page. */
function showPage() {
  const {call, pk} = findCall(location.hash);
  find("main").replaceChildren(call ? getView(call, pk).article : start);
  document.title = call?.name ?? "ajax.py";
  listCalls();
  find("[aria-current]")?.scrollIntoView({block: "nearest"});
}

/** Go to the call that the filter names, or else to the first one listed. */
function goToCall() {
  const filter = find("#filter");
  const {pk} = findCall(filter.value);
  const [call] = filterCalls(filter.value);
  if (!call) return;
  filter.value = "";
  location.hash = makeHash(call, pk);
  filter.oninput();
}

/** Show whom the page is logged in as, a link to log in, and what the start page says. */
function showStart() {
  const reply = {...extras(api), ...api.reply};
  const {loginUrl} = new AJAXError("", {reply});
  replace(find("#you"), reply.you, " ", loginUrl && element("a", {href: loginUrl}, "Log in"));
  find("#problem").textContent = api.problem;
  find("#about pre").textContent = api.info?.description;
  find("#loading").remove();
}

find("#filter").oninput = () => {
  find("#found").textContent = `${listCalls().length} of ${calls.length} calls.`;
};
find("#find").onsubmit = event => {
  event.preventDefault();
  goToCall();
};
find("#skip").onclick = event => {
  event.preventDefault();
  find("main h2").focus();
};
onhashchange = () => {
  showPage();
  find("main h2").focus();
  scrollTo(0, 0);
};
showStart();
showPage();
"""  # noqa: E501

_STYLE = """:root {
  color-scheme: light dark;
  --background: #fff;
  --raised-background: #f5f7f6;
  --text: #1a1e1c;
  --muted-text: #59615d;
  --divider: #dfe4e1;
  --border: #838c87;
  --accent: #0a6b4c;
  --accent-background: #e3f2ec;
  --error: #b3261e;
  --error-background: #fcebe9;
  font: .9375rem/1.5 system-ui, sans-serif;
  scroll-padding-bottom: 6rem;
  color: var(--text);
  background: var(--background);
}

@media (prefers-color-scheme: dark) {
  :root {
    --background: #131615;
    --raised-background: #1b1f1d;
    --text: #e3e7e5;
    --muted-text: #9ca5a0;
    --divider: #2d3330;
    --border: #75807a;
    --accent: #5fcaa2;
    --accent-background: #17352a;
    --error: #ff9c91;
    --error-background: #43201d;
  }
}

* {
  box-sizing: border-box;
  margin: 0;
  padding: 0;
}

[hidden] { display: none !important; }

:focus-visible {
  outline: 2px solid var(--accent);
  outline-offset: 2px;
}

/* A script focuses these, so that they are read aloud. */
h2:focus-visible, main:focus-visible, .reply:focus-visible { outline: none; }

h1, h3 { font-size: 1em; }

h2 {
  font-size: 1.375rem;
  line-height: 1.3;
}

small, #you {
  color: var(--muted-text);
  font-size: .8125rem;
}

a { color: var(--accent); }

h1 a { color: inherit; }

h1 a, nav a, table a { text-decoration: none; }

a:hover { text-decoration: underline; }

pre, code, article h2, label, dt, summary, caption, #table th[scope=row], .links {
  font-family: ui-monospace, Menlo, Consolas, monospace;
  overflow-wrap: anywhere;
}

code { font-size: .9em; }

/* Code reads from left to right, on pages of any language. */
pre, code, article h2, nav a, table a, .chip {
  direction: ltr;
  unicode-bidi: isolate;
}

label, small { unicode-bidi: isolate; }

pre {
  text-align: left;
  padding: .75rem;
  border-radius: 6px;
  background: var(--raised-background);
  font-size: .8125rem;
  white-space: pre-wrap;
}

.scroll {
  max-height: 70vh;
  overflow: auto;
}

/* Boxes and buttons */

input, select, textarea, button {
  min-width: 0;
  min-height: 2.375rem;
  padding: .375rem .625rem;
  border: 1px solid var(--border);
  border-radius: 6px;
  color: inherit;
  background: var(--background);
  font: inherit;
}

input, select, textarea {
  width: 100%;
  max-height: 20rem;
}

/* It grows with its text, where the browser supports that. */
textarea { field-sizing: content; }

:disabled {
  color: var(--muted-text);
  border-style: dashed;
}

button { cursor: pointer; }

.call, .danger {
  min-width: 7rem;
  border-color: var(--accent);
  color: var(--background);
  background: var(--accent);
  font-weight: 600;
}

.danger {
  border-color: var(--error);
  background: var(--error);
  text-transform: capitalize;
}

[aria-disabled=true] {
  opacity: .6;
  cursor: default;
}

.bad, [aria-invalid=true] { border-color: var(--error); }

.bad, .ajax-error {
  color: var(--error);
  white-space: pre-line;
}

.note:not(:empty)::after { content: " "; }

/* The list of calls */

#skip {
  position: absolute;
  inset-block-start: -10rem;
  padding: .75rem;
  background: var(--background);
}

#skip:focus {
  inset-block-start: 0;
  z-index: 3;
}

#side, main { padding: 1.5rem; }

#side header, .head, .bar, .status, .line {
  display: flex;
  flex-wrap: wrap;
  gap: .25rem .75rem;
  align-items: baseline;
}

#find {
  display: grid;
  gap: .25rem;
  margin: 1.25rem 0;
}

summary {
  padding: .25rem 0;
  font-size: .875rem;
  font-weight: 600;
  cursor: pointer;
}

nav ul {
  margin-bottom: .75rem;
  list-style: none;
}

nav a {
  display: block;
  padding: .125rem 1rem;
  border-inline-start: 3px solid transparent;
  border-radius: 2px;
  overflow-wrap: anywhere;
}

nav [aria-current] {
  border-inline-start-color: var(--accent);
  color: inherit;
  background: var(--accent-background);
  font-weight: 600;
}

/* Tables */

table {
  width: 100%;
  border-collapse: collapse;
}

th, td {
  padding: .375rem .75rem .375rem 0;
  border-bottom: 1px solid var(--divider);
  text-align: start;
  vertical-align: baseline;
}

th { font-weight: 600; }

#table { display: grid; gap: 2rem; margin-top: 1.25rem; }

#table th[scope=row] {
  font-size: .875rem;
  font-weight: 400;
}

caption {
  padding-bottom: .25rem;
  font-weight: 600;
  text-align: start;
}

thead th {
  color: var(--muted-text);
  font-size: .8125rem;
}

.reply table { font-size: .875rem; }

.reply thead th {
  position: sticky;
  top: 0;
  background: var(--background);
  white-space: nowrap;
}

.reply td {
  max-width: 16rem;
  overflow: hidden;
  text-overflow: ellipsis;
  white-space: nowrap;
}

.reply th button {
  min-height: 0;
  padding: 0;
  border: 0;
  color: var(--accent);
  font-weight: 600;
}

[aria-sort=ascending] button::after { content: " ↑"; }
[aria-sort=descending] button::after { content: " ↓"; }

.links {
  display: flex;
  flex-wrap: wrap;
  gap: 0 .75rem;
  font-size: .8125rem;
}

/* One call */

article, article form, article section, #start section {
  display: grid;
  grid-template-columns: minmax(0, 1fr);
  gap: 1.25rem 3rem;
  align-content: start;
}

article, #start section { max-width: 46rem; }

#start { max-width: 72rem; }

#about { margin-top: 2.5rem; }
#about:has(pre:empty) { display: none; }

header p {
  margin-top: .375rem;
  white-space: pre-line;
}

.who { color: var(--muted-text); }

article section, .reply { scroll-margin-top: 6rem; }

label {
  margin-inline-end: .75rem;
  font-size: .875rem;
  font-weight: 600;
}

.line {
  position: relative;
  gap: .25rem .375rem;
  align-items: stretch;
  margin-block: .25rem;
}

/* The box takes what the buttons leave. An error goes below. */
.line > :first-child { flex: 1 1 50%; }

.ajax-error {
  flex-basis: 100%;
  order: 1;
  font-size: .8125rem;
}

/* A checkbox that looks like a button: what it sends stands in it. */
.special {
  position: relative;
  display: grid;
  place-items: center;
  margin: 0;
  padding: .5rem;
  border: 1px solid var(--border);
  border-radius: 6px;
  color: var(--muted-text);
  font-size: .8125rem;
  font-weight: 400;
}

.special input {
  position: absolute;
  inset: 0;
  height: 100%;
  opacity: 0;
  cursor: pointer;
}

.special:has(:checked) {
  border-color: var(--accent);
  color: var(--accent);
  background: var(--accent-background);
}

.special:focus-within { outline: 2px solid var(--accent); }

/* What is typed is not sent then. */
.line:has(.special :checked) > :first-child { opacity: .5; }

.options {
  field-sizing: content; /* In browsers that know it, no line is empty. */
  position: absolute;
  inset: 100% 0 auto;
  z-index: 2;
  box-shadow: 0 4px 16px #0003;
}

.options:empty, .line:not(:focus-within) .options { display: none; }

.options option { padding: .375rem; }

/* The bar stays in view with the button and the status. */
.bar {
  position: sticky;
  bottom: 0;
  z-index: 1;
  flex-wrap: nowrap;
  padding: .75rem 0;
  border-top: 1px solid var(--divider);
  background: var(--background);
}

.bar button { flex: none; }

.status {
  max-height: 40vh;
  overflow: auto;
}

.status span { flex-basis: 100%; }

.chip {
  padding: .0625rem .625rem;
  border: 1px solid;
  border-radius: 1rem;
  white-space: nowrap;
}

.good {
  color: var(--accent);
  background: var(--accent-background);
}

.chip.bad {
  display: inline-block;
  background: var(--error-background);
}

.head {
  align-items: center;
  margin-bottom: .375rem;
}

.head button {
  min-height: 2rem;
  padding: .125rem .625rem;
  font-size: .8125rem;
}

.head h3 { margin-inline-end: auto; }

.reply { min-width: 0; }
.reply details { margin-top: .75rem; }
.reply .head:empty { display: none; }
.reply td .links { flex-wrap: nowrap; }

dl {
  display: grid;
  grid-template-columns: auto minmax(0, 1fr);
  gap: .125rem 1.25rem;
  margin-top: .375rem;
  font-size: .8125rem;
}

dd { color: var(--muted-text); }

/* Fingers need larger targets. */
@media (pointer: coarse) {
  input, select, textarea, button, .special, .head button, .reply th button {
    min-width: 44px;
    min-height: 44px;
  }

  #table th a, .links a, #side header a { display: inline-block; }

  nav a, summary, #table th a, .links a, #side header a {
    min-width: 44px;
    min-height: 44px;
    padding-block: .625rem;
  }
}

/* Narrow: show either all calls, or one call and a link back. */
@media not all and (min-width: 52rem) {
  body:has(article) nav { display: none; }
  body:not(:has(article)) #back, #calls { display: none; }

  #table tr, #table :is(th, td) { display: block; padding: 0; border: 0; }
  #table thead { position: absolute; clip-path: inset(50%); }
  #table tbody tr { padding: .625rem 0; border-bottom: 1px solid var(--divider); }
  #table td { font-size: .875rem; }
  #table td:last-child { color: var(--muted-text); }

  #side, main { padding: 1rem; }
  main { padding-top: 0; }
}

/* Wide: show the list beside the call. */
@media (min-width: 52rem) {
  body {
    display: grid;
    grid-template-columns: 19rem minmax(0, 1fr);
  }

  #side {
    position: sticky;
    top: 0;
    height: 100vh;
    overflow: auto;
    border-inline-end: 1px solid var(--divider);
    background: var(--raised-background);
  }

  #find {
    position: sticky;
    top: 0;
    z-index: 1;
    margin: .75rem 0;
    padding: .5rem 0;
    background: var(--raised-background);
  }

  #back { display: none; }

  main { padding: 1.5rem 2.5rem; }

  #table td:last-child { width: 38%; color: var(--muted-text); }
  #table th:first-child { width: 26%; }
}

/* Very wide: show the reply beside the form, where it stays in view. */
@media (min-width: 80rem) {
  article {
    grid-template: auto 1fr / minmax(0, 28rem) minmax(0, 1fr);
    max-width: 110rem;
  }

  article section {
    position: sticky;
    top: 1.5rem;
    grid-area: 1 / 2 / 3;
    max-height: calc(100vh - 3rem);
    overflow: auto;
  }
}

@media (forced-colors: active) {
  nav a { border-color: Canvas; }
  nav [aria-current] { outline: 2px solid; outline-offset: -2px; }
  .special:has(:checked) { border-width: 3px; }
}

@media print {
  #side, #skip, .bar button, .head button { display: none; }
  body, article, article section { display: block; }

  article section, .scroll, .status {
    position: static;
    max-height: none;
    overflow: visible;
  }
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>ajax.py</title>
<link rel="icon" href="explorer.svg">
<link rel="stylesheet" href="explorer.css">
<script type="module" src="explorer.js"></script>
<input type="hidden" name="csrfmiddlewaretoken" value="CSRF_TOKEN">
<a id="skip" href="#main">Skip the list of calls</a>
<div id="side">
  <header>
    <h1><a href="#">ajax.py</a></h1>
    <p id="you" dir="auto"></p>
    <a id="back" href="#">All calls</a>
  </header>
  <nav aria-label="Calls">
    <form id="find" role="search">
      <label for="filter">Find a call</label>
      <input id="filter" type="search" autocomplete="off" aria-describedby="found">
      <small id="found" role="status">
        Type words, or paste a path and press Enter.
      </small>
    </form>
    <div id="calls"></div>
  </nav>
</div>
<template id="call">
  <article>
    <header>
      <h2 tabindex="-1"></h2>
      <p class="who"><strong>Who may call: </strong></p>
    </header>
    <form autocomplete="off">
      <small class="empty" hidden>Boxes that are empty are not sent.</small>
      <small class="filled" hidden>Only what you change is sent.</small>
      <div class="bar">
        <button type="submit" class="call">Call</button>
        <div role="status" class="status"></div>
      </div>
    </form>
    <section>
      <div class="reply" tabindex="-1" hidden>
        <div class="head" role="status"></div>
        <div class="scroll table" tabindex="0" role="region" aria-label="Table"></div>
        <details>
          <summary>Reply</summary>
          <pre class="scroll" tabindex="0" role="region" aria-label="Reply"></pre>
        </details>
      </div>
      <details class="outline" open>
        <summary>What comes back</summary>
        <dl></dl>
      </details>
      <div>
        <div class="head">
          <h3>JavaScript</h3>
          <small role="status"></small>
          <button type="button" aria-label="Copy JavaScript">Copy</button>
        </div>
        <pre class="scroll" tabindex="0" role="region" aria-label="JavaScript"></pre>
      </div>
      <div>
        <div class="head">
          <h3>curl</h3>
          <small role="status"></small>
          <button type="button" aria-label="Copy curl">Copy</button>
        </div>
        <pre class="scroll" tabindex="0" role="region" aria-label="curl"></pre>
        <small>Set SESSION to the value of your session cookie. Scripts cannot read it,
          but your browser’s developer tools show it.</small>
      </div>
    </section>
  </article>
</template>
<main id="main" tabindex="-1">
  <div id="start">
    <h2 tabindex="-1">All calls</h2>
    <p id="loading">The calls are being loaded.</p>
    <p id="problem" class="bad" role="alert" dir="auto"></p>
    <div id="table"></div>
    <section id="about">
      <h2>About</h2>
      <pre dir="auto"></pre>
    </section>
  </div>
</main>
"""

_ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
  <rect width="16" height="16" rx="4" fill="#0a6b4c"/>
  <path d="M4 5l3 3-3 3m5 0h3" fill="none" stroke="#fff" stroke-width="1.75"/>
</svg>
"""

#: What visitors see in the place of the explorer.
_LOGIN_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>Not found</title>
<h1>Not found</h1>
<p>This page is for staff. <a href="{}">Log in</a></p>
"""


def _drop_comments(text):
    """Return a script or a style sheet without indentation, and without the comments
    that have a line of their own."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(
        line for line in lines if line and not line.startswith(("/*", "//"))
    )


#: The content type and the text of each file of the page. Serving a text replaces the
#: names of the cookie, the header and the time zone by the site's own, and CSRF_TOKEN
#: by a token.
_TEXTS = {
    "": ("text/html", _PAGE),
    "explorer.css": ("text/css", _drop_comments(_STYLE)),
    "explorer.js": ("text/javascript", _drop_comments(_EXPLORER)),
    "explorer.svg": ("image/svg+xml", _ICON),
    "client.js": ("text/javascript", _CLIENT),
}


if __name__ == "__main__":
    # By its real name: as __main__ it would be a second copy, with its own registries.
    sys.exit(
        importlib.import_module(__spec__.name if __spec__ else "ajax")._serve_demo()
    )
