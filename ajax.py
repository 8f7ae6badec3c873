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

    sent             the value that a client sends for a key
    model endpoint   an instance of a model's endpoint class, made for one request
    plan             what one model looks like at one place of a reply, and how it is
                     queried; plans are kept until something is registered
    part             one key of a plan: it encodes, describes and reads that key
    batch            records of one model that are encoded together
    draft            a record that is being written
    closed           said of a model of which only pks may be shown

Read down for definitions, up to follow a request.
"""

import binascii
import collections
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
from django.core.validators import MaxValueValidator, MinValueValidator
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
from django.utils.text import smart_split
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from django.views.generic import RedirectView

__version__ = "1.1.0"

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
]

app_name = "ajax"


# --- Limits ---------------------------------------------------------------------------

_MAX_JSON_DEPTH = 64
_MAX_TAGS = 100
#: Values of one many-to-many relation.
_MAX_MEMBERS = 1000
_MAX_FILTER_VALUES = 100
#: Characters of one value of a filter.
_MAX_FILTER_LENGTH = 1000
_MAX_SEARCH_WORDS = 10
_MAX_SORT_KEYS = 10
#: Levels of foreign keys shown as whole records.
_MAX_LEVELS = 5
#: Places in one reply at which a record is shown whole inside another one.
_MAX_EXPANSIONS = 100
#: Keys for which a reply explains what is wrong.
_MAX_EXPLAINED_KEYS = 20
#: SQLite joins at most 64 tables. Relations beyond this number get their own query.
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

    `code` is the HTTP status, from 400 to 599. `message` is a text for the user. Other
    keyword arguments are added to the top level of the reply. Raise ValueError for
    another code.
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
        reply = {
            "success": False,
            "data": {"code": self.code, "message": str(self.msg)},
        }
        reply.update(_beside_data(self.extra))
        response = _json_response(_dump(reply), self.code)
        if self.code == 405:
            response["Allow"] = "POST"
        return response


#: The messages of exceptions whose own text is empty or private.
_MESSAGES = {
    400: gettext_lazy("Bad request."),
    403: gettext_lazy("Access to endpoint is forbidden"),
    404: gettext_lazy("Not found."),
    409: gettext_lazy("The record conflicts with another one, is in use, or is gone."),
    413: gettext_lazy("The request is too large."),
}

#: How other exceptions are answered: their classes, the status, and whether clients
#: may see their text.
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
    (IntegrityError, 409, False),
    (DataError, 400, False),
    # SQLite's driver raises OverflowError for a number beyond its columns.
    (OverflowError, 400, False),
    # Django 5.2 raises a bare DatabaseError instead: see _as_database_error().
    (getattr(core_exceptions, "ObjectNotUpdated", ()), 409, False),
)

#: How databases say that somebody else held a lock for too long.
_LOCKED = re.compile(r"is locked|lock timeout|lock wait|deadlock|serialize", re.I)
#: The errors of values beyond PostgreSQL's index, or MariaDB's character set and UUIDs.
_UNSTORABLE = re.compile(r"54000|\((1267|1292|1366),")


def _as_ajax_error(error):
    """Return the AJAXError for an exception, None if nobody expected the exception."""
    if isinstance(error, AJAXError):
        return error
    if isinstance(error, ValidationError):
        message = " ".join(error.messages)
        return AJAXError(400, message, errors=_errors_by_field(error))
    for kinds, code, is_public in _STATUSES:
        if isinstance(error, kinds):
            text = _own_text(error) if is_public else ""
            return AJAXError(code, text or _MESSAGES[code])
    return _as_database_error(error)


def _own_text(error):
    """Return the text that an exception was raised with, "" if it has another value.

    A Resolver404 has the URLconf, which clients must not see.
    """
    if error.args and isinstance(error.args[0], str | Promise):
        return str(error)
    return ""


def _as_database_error(error):
    """Return the AJAXError for an exception that only the database's text explains."""
    if isinstance(error, OperationalError):
        code = getattr(error.__cause__, "sqlstate", None) or str(error)
        if _UNSTORABLE.match(code):
            return AJAXError(400, _MESSAGES[400])
        if _LOCKED.search(str(error)):
            return AJAXError(503, _("The database is busy; try again."))
    if type(error) is DatabaseError and error.__cause__ is None:
        # Django 5.2 raises it where later versions raise ObjectNotUpdated.
        return AJAXError(409, _MESSAGES[409])
    return None


def _error_response(request, error):
    """Return the JSON response for any exception."""
    try:
        ajax_error = _as_ajax_error(error)
        if ajax_error is None:
            raise error
        response = ajax_error.get_response()
    except Exception as unexpected:
        return _report(request, unexpected)
    if isinstance(error, (DatabaseError, OverflowError)):
        # The text may quote the client: Django escapes the arguments of log messages.
        arguments = (response.reason_phrase, request.path, str(error))
        log_response("%s: %s: %s", *arguments, response=response, request=request)
    return response


def _report(request, error):
    """Return the response for an unexpected exception; signal and log it once, as
    Django does."""
    got_request_exception.send(sender=None, request=request)
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
    """Return the messages of a ValidationError by field, whatever it was made of."""
    return ValidationError(error.update_error_dict({})).message_dict


def _invalid(errors):
    """Return the AJAXError for errors by field."""
    return AJAXError(400, _("Could not save model."), errors=errors)


def _hint(text):
    """Return a hint for the site's developer as keywords of an AJAXError, if DEBUG."""
    if settings.DEBUG:
        return {"hint": text}
    return {}


def _find_close(name, known_names, likeness=0.6):
    """Return the known name that is most like a name, None if none is like it."""
    # The time that difflib takes is quadratic in the length.
    matches = difflib.get_close_matches(name[:100], known_names, 1, likeness)
    return matches[0] if matches else None


# --- Signals --------------------------------------------------------------------------

#: Sent inside the transaction, after its last write, with `instance` and `request`.
#: `ajax_deleted` also has `payload`: the data of the reply.
ajax_created = Signal()
ajax_updated = Signal()
ajax_deleted = Signal()


# --- Values as JSON -------------------------------------------------------------------


class EnvelopedResponse:
    """A result with more than its data: the dict `metadata` is added beside `data` at
    the top level of the reply."""

    def __init__(self, data, metadata):
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
    if abs(value) <= _MAX_SAFE_INTEGER:
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
    """An integer that stands in JSON as it is, however large: a JSONField holds it."""


def _load(text):
    """Return the plain data of a JSON text that was made here."""
    return json.loads(text, parse_int=_JSONInteger)


#: How values become JSON, by class; a subclass follows its nearest base listed here.
_CONVERSIONS = {
    type(None): lambda value: None,
    bool: bool,
    str: str.__str__,
    int: _plain_integer,
    _JSONInteger: int,
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

#: The classes of values that JSON takes as they are.
_PLAIN_CLASSES = {str, bool, type(None)}


def _to_plain(value, encode=None):
    """Return a value that an endpoint returned as plain dicts, lists and scalars.

    `encode` turns a list of records into a list of dicts; by default it does so for
    nobody in particular. Raise TypeError for a value that JSON cannot hold.
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
    if hasattr(value, "lower_inc"):
        return str(value)  # A range of PostgreSQL's, from whichever driver.
    raise TypeError(f"{value_class.__name__} cannot be encoded as JSON.")


def _plain_dict(mapping, encode):
    plain = {}
    for key, value in mapping.items():
        plain[_to_plain(key)] = _to_plain(value, encode)
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


def _dump_column(values):
    """Return the JSON text of each of some values of a column."""
    classes = set(map(type, values))
    if not classes <= _PLAIN_CLASSES:
        conversions = {}
        for value_class in classes:
            conversions[value_class] = _CONVERSIONS.get(
                value_class, _plain_column_value
            )
        values = [conversions[type(value)](value) for value in values]
    return _dump_each(values)


def _plain_column_value(value):
    """Return a value of a column as plain data.

    A field may have a class of its own for its values, as those of phone numbers do. Of
    such a value clients get the text.
    """
    if isinstance(value, (list, tuple, set)):
        return [_plain_column_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain_column_value(item) for key, item in value.items()}
    for base in type(value).__mro__:
        if base in _CONVERSIONS:
            return _CONVERSIONS[base](value)
    return str(value)


def _json_response(text, status=200):
    return HttpResponse(text, content_type="application/json", status=status)


def _beside_data(extra):
    """Return plain data for the top level of a reply; it cannot replace the reply's own
    keys."""
    plain = _to_plain(extra)
    plain.pop("success", None)
    plain.pop("data", None)
    return plain


def _success_response(result, request):
    """Return an endpoint's result as an HttpResponse; raise a returned AJAXError."""
    if isinstance(result, HttpResponseBase):
        return result
    if isinstance(result, AJAXError):
        raise result
    text = _dump_result(result, request)
    metadata = _get_access(request).get_hint() if settings.DEBUG else {}
    if isinstance(result, EnvelopedResponse):
        metadata.update(_beside_data(result.metadata))
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
# is read. A field that repeats the pk is an *own key*: it is shown once, as "pk".

_TEXT_FIELDS = (models.CharField, models.TextField)


def _is_user_model(model):
    # Imported on use: while apps load, not even an abstract model can be made.
    from django.contrib.auth.base_user import AbstractBaseUser

    return issubclass(model, AbstractBaseUser)


def _is_of_auth(model):
    """Return whether a model is one of django.contrib.auth, as Group is."""
    return model.__module__.startswith("django.contrib.auth.")


def _is_special(field):
    """Return whether a field is a range, hstore or search vector of PostgreSQL's: such
    fields are shown, but cannot be written."""
    if hasattr(field, "range_type"):
        return True
    # By name: django.contrib.postgres cannot be imported without its driver.
    names = {base.__name__ for base in type(field).__mro__}
    return not names.isdisjoint({"HStoreField", "SearchVectorField"})


def _is_tags_manager(field):
    if not apps.is_installed("taggit"):
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


def _select_visible(model, endpoint_class):
    """Return, in order, the names that an endpoint class lets clients see."""
    if endpoint.is_closed(model) and not encoder.find(model):
        return []
    model_fields = _model_fields(model)
    chosen = endpoint_class.fields
    if chosen is None or chosen == "__all__":
        names = [name for name in model_fields if name != "password"]
    else:
        names = [name for name in model_fields if name in chosen]
        pk_names = _pk_names(model)
        for name in chosen:
            if name not in model_fields and name not in pk_names:
                names.append(name)
    return [name for name in names if name not in endpoint_class.exclude]


def _select_shown(model, endpoint_class, model_encoder):
    """Return, in order, the names of which the values are shown. Clients write some of
    these."""
    names = _select_visible(model, endpoint_class)
    lists_names = isinstance(model_encoder, (IncludeEncoder, ExcludeEncoder))
    if _is_user_model(model) and endpoint_class.fields is None and not lists_names:
        names = [name for name in names if name == _public_name_field(model)]
    if model_encoder is not None:
        names = model_encoder._select(names)
    return names


def _public_name_field(user_model):
    """Return the name of the field that names a user to others, None for an e-mail
    address, which is nobody's business."""
    name = user_model.USERNAME_FIELD
    field = user_model._meta.get_field(name)
    return None if isinstance(field, models.EmailField) else name


def _levels(expand):
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
    """Return whether a project's endpoint class adds a name to those that each has."""
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
    if models.signals.pre_init.has_listeners(model):
        return True
    if models.signals.post_init.has_listeners(model):
        return True
    for field in model._meta.concrete_fields:
        descriptor = inspect.getattr_static(model, field.attname)
        if not type(descriptor).__module__.startswith("django."):
            return True
    return False


def _is_writable(field, is_named):
    """Return whether clients may write a field, which `fields` names or not."""
    if field.many_to_many and not _is_tags_manager(field):
        if not field.remote_field.through._meta.auto_created:
            return False
    if field.generated or _is_special(field):
        return False
    if is_named:
        return True
    return field.editable and not field.primary_key


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

    def find_endpoint(self, model):
        """Return the endpoint of a model for the request."""
        if model not in self.endpoints:
            self.endpoints[model] = endpoint.find(model)._for_model(model, self.request)
        return self.endpoints[model]

    def is_authenticated(self, model):
        """Return whether the endpoint of a model lets the user call `get`.

        A model with only an encoder has no endpoint that could refuse.
        """
        if model not in self.permissions:
            has_only_encoder = not endpoint.has(model) and encoder.find(model)
            self.permissions[model] = bool(has_only_encoder) or self._ask(model)
        return self.permissions[model]

    def _ask(self, model):
        model_endpoint = self.find_endpoint(model)
        label = model._meta.app_label
        try:
            return model_endpoint.authenticate(self.request, label, "get")
        except core_exceptions.PermissionDenied:
            return False
        except AJAXError as error:
            if error.code != 403:
                raise
            return False

    def shows_whole(self, model):
        """Return whether records of a model may be shown whole inside other records."""
        name = endpoint.find(model).__name__
        if not self.is_authenticated(model):
            self.reasons[model] = f"{name}.authenticate refuses this user"
        elif not self.find_endpoint(model)._offers("get"):
            self.reasons[model] = f"{name}.operations has no get"
        else:
            return True
        return False

    def may_hide(self, model):
        """Return whether records of a model may be hidden from the user."""
        if not self.is_authenticated(model) or endpoint.is_closed(model):
            return True
        return _is_narrowed(model, endpoint.find(model))

    def get_queryset(self, model):
        """Return the records of a model that exist for the user."""
        if not self.is_authenticated(model) or endpoint.is_closed(model):
            return model._default_manager.none()
        return self.find_endpoint(model).get_queryset(self.request)

    def get_hint(self):
        """Return why expansions show only pks, as keywords of a reply."""
        texts = []
        for model, reason in self.reasons.items():
            texts.append(f"{_label(model)} is shown only as its pk: {reason}.")
        return _hint(" ".join(texts)) if texts else {}


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

        Return the key of each record's joined record, the distinct keys without None,
        and a batch of the joined records in the order of the distinct keys.
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
        if using not in self.compiled:
            compiler = self.queryset.query.get_compiler(using)
            sql, parameters = compiler.as_sql()
            selected = [column[0] for column in compiler.select]
            expressions = {}
            for position in compiler.get_converters(selected):
                expressions[position] = selected[position]
            self.compiled[using] = sql, parameters, expressions
        return self.compiled[using]

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
                parameters.append(field.get_db_prep_value(item, connection))
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


class _Column(_Part):
    """A key whose value is in a column."""

    def __init__(self, plan, name, field, lookup=None):
        super().__init__(plan, name, field)
        self.lookups = [lookup or field.attname]

    def encode(self, batch):
        return _dump_column(batch.column(self.start))

    def read(self, draft, sent):
        value = _read_value(self.field, sent)
        _check_integer(self.field, value)
        setattr(draft.record, self.field.attname, value)


class _JSONColumn(_Column):
    """A JSONField, whose values need no conversion."""

    def encode(self, batch):
        return _dump_each(batch.column(self.start))


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

    def read(self, draft, sent):
        self.field.save_form_data(draft.record, _read_file(self.field, sent))


class _ForeignKey(_Column):
    """A foreign key that is shown as a pk; one to another field than the pk is looked
    up."""

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
            rows = related._base_manager.using(batch.using)
            rows = rows.filter(**{f"{self.target.name}__in": set(keys) - {None}})
            batch.shared[self] = dict(rows.values_list(self.target.name, "pk"))
        pks_by_key = batch.shared[self]
        return [pks_by_key.get(key) for key in keys]

    def encode(self, batch):
        return _dump_column(self.find_pks(batch))

    def read(self, draft, sent):
        value = _read_single(self.field, sent)
        if value is None:
            setattr(draft.record, self.field.name, None)
            return
        pk = _read_pk(self.field.remote_field.model, value)
        if self.refers_to(draft, pk):
            return
        if self.can_refer(draft, pk):
            setattr(draft.record, self.field.attname, pk)
        else:
            records = draft.find_related(self.field, [pk])
            setattr(draft.record, self.field.name, records[pk])
        key = getattr(draft.record, self.field.attname)
        self.field.run_validators(key)
        draft.checked_keys[self.field] = key

    def refers_to(self, draft, pk):
        """Return whether the stored record refers to a pk already: such a value may
        stay, so that a record that was read can be sent back whole."""
        if draft.stored is None or not self.target.primary_key:
            return False
        return pk == getattr(draft.record, self.field.attname)

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
        if plan.is_closed or not access.is_authenticated(plan.model):
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
        if not self.related.may_hide:
            return [text or "null" for text in texts]
        # The record may exist, hidden from this user: show only its pk.
        pks = _dump_column(self.find_pks(batch))
        return [text or pk for text, pk in zip(texts, pks, strict=True)]

    def describe(self):
        # Wherever it is expanded, some users see only the pk.
        pk_schema = {"type": ["string"], **_describe_field(self.field)}
        _allow_null(pk_schema)
        return {"anyOf": [_refer_to_schema(self.related.model), pk_schema]}


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

    def encode(self, batch):
        pks = [self.clean(pk) for pk in batch.pks]
        rows = self.rows.using(batch.using)
        rows = rows.filter(**{f"{self.source}__in": set(pks) - {None}})
        members = {pk: [] for pk in pks}
        # A key without a constraint may refer to nothing.
        complete_rows = {row for row in rows if None not in row}
        for pk, member in sorted(complete_rows):
            members[pk].append(member)
        return _dump_column([members[pk] for pk in pks])

    def read(self, draft, sent):
        values = _read_several(sent)
        if not values and not self.field.blank:
            raise ValidationError(self.field.error_messages["blank"])
        if len(values) > _MAX_MEMBERS:
            raise ValidationError(_("At most %s values.") % _MAX_MEMBERS)
        related = self.field.remote_field.model
        pks = {_read_pk(related, value) for value in values}
        # Members may stay: a record that was read can be sent back whole.
        members = []
        if draft.stored is not None:
            members = getattr(draft.stored, self.name).values_list("pk", flat=True)
        draft.find_related(self.field, pks.difference(members))
        draft.relations[self.name] = pks


class _Tags(_Part):
    """The tags of a TaggableManager, as a list of {"pk", "name", "slug"}.

    They are read from the through table: taggit's own prefetch builds a queryset for
    every row.
    """

    template = '{"pk":%s,"name":%s,"slug":%s}'

    def __init__(self, plan, field):
        from taggit.models import CommonGenericTaggedItemBase

        super().__init__(plan, field.name, field)
        self.model = plan.model
        self.through = field.through
        self.is_generic = issubclass(self.through, CommonGenericTaggedItemBase)
        #: The through table's column that refers to the record.
        self.key_name = "object_id" if self.is_generic else "content_object_id"
        self.key = self.through._meta.get_field(self.key_name)

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
        rows = self.through._base_manager.filter(**conditions).order_by(*self.order)
        columns = ("pk", self.key_name, "tag_id", "tag__name", "tag__slug")
        return _Statement(rows.values_list(*columns), *fields)

    @cached_property
    def must_cast(self):
        """Whether the key is text, as generic keys may be, and the pk is not."""
        is_text_pk = isinstance(_root_key(self.model), _TEXT_FIELDS)
        return isinstance(self.key, _TEXT_FIELDS) and not is_text_pk

    @property
    def record_pk(self):
        """The through table's key, as a pk of the model."""
        if self.must_cast:
            return Cast(self.key_name, _root_key(self.model))
        return F(self.key_name)

    @property
    def outer_pk(self):
        """The pk of an outer query's record, as a key of the through table."""
        if self.must_cast:
            return Cast(OuterRef("pk"), self.key)
        return OuterRef("pk")

    def get_content_type(self):
        from django.contrib.contenttypes.models import ContentType

        return ContentType.objects.get_for_model(self.model)

    def get_items(self, using=None):
        """Return the through table's rows of this model."""
        items = self.through._base_manager.all()
        if self.is_generic:
            items = items.filter(content_type=self.get_content_type())
        return items.using(using) if using else items

    def match_any(self, value):
        """Return the condition that a record has any of the tags that were sent."""
        lookup = "tag__name__exact"
        if getattr(settings, "TAGGIT_CASE_INSENSITIVE", False):
            lookup = "tag__name__iexact"
        names = _read_tags(self.field, value)
        if not names:
            return Q(pk__in=[])
        is_named = Q.create([(lookup, name) for name in names], connector=Q.OR)
        items = self.get_items().filter(is_named)
        return Q(pk__in=items.values_list(self.record_pk))

    def rank(self, queryset, pk, using):
        """Return the records of a queryset that share tags with a record, most shared
        first."""
        items = self.get_items(using)
        own_tags = items.filter(**{self.key_name: pk}).values("tag_id")
        shared = items.filter(tag_id__in=own_tags)
        shared_by_one = shared.filter(**{self.key_name: self.outer_pk}).order_by()
        count = shared_by_one.values(self.key_name).values(shared=Count("pk"))
        similar = queryset.filter(pk__in=shared.values_list(self.record_pk))
        return similar.order_by(Subquery(count).desc(), "pk")

    def load_rows(self, pks, using):
        """Return the rows of some records: their pk, key, tag's pk, name and slug."""
        if not pks:
            return []
        values = [list(pks)]
        if self.is_generic:
            values.insert(0, self.get_content_type().pk)
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
        draft.relations[self.name] = _read_tags(self.field, sent)


class _AnyRecord(_Part):
    """A key whose records may be of several models: each is shown as any expansion."""

    def __init__(self, plan, name):
        super().__init__(plan, name)
        self.plans = {}

    def describe(self):
        return {}

    def find_plan(self, model):
        """Return the plan for records of a model, None if only their pks are shown."""
        if model not in self.plans:
            plan = self.plan.find_plan(self.name, model)
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
        references = []
        pks_by_model = {}
        for kind, key in zip(kinds, keys, strict=True):
            model = self.find_model(kind)
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
            rows = model._base_manager.filter(pk__in=missing)
            existing = list(rows.values_list("pk", flat=True))
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
            expanded.append(shown[key] if key in shown else _to_plain(record.pk))
        return expanded


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
        has_user=False,
        html_escape=False,
        chosen_encoder=None,
        levels=None,
        outer=None,
    ):
        """Plan a model at the top of a reply, or inside the plan `outer` with `levels`
        left. Without a user, hooks that want one cannot be asked."""
        _autodiscover()
        self.model = model
        self.endpoint_class = endpoint_class or endpoint.find(model)
        self.encoder = chosen_encoder or encoder.find(model)
        self.has_user = has_user
        self._set_access()
        self._set_escaping(html_escape, outer)
        self._set_expansion(levels, outer)
        self._make_parts()
        self.reader = _Reader(self)

    def _set_access(self):
        """Work out who may see which records."""
        self.asks_can_get = self.has_user and _overrides(self.endpoint_class, "can_get")
        self.is_narrowed = _is_narrowed(self.model, self.endpoint_class)
        self.may_hide = self.asks_can_get or self.is_narrowed
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
        self.levels = levels
        if levels is None:
            self.levels = _levels(self.endpoint_class.expand)
        concrete = self.model._meta.concrete_model
        if outer is None:
            self.ancestors = [concrete]
            self.expansions = _Expansions()
        else:
            self.ancestors = [*outer.ancestors, concrete]
            self.expansions = outer.expansions

    # Parts

    def _make_parts(self):
        self.is_custom = self.encoder is not None and self.encoder._is_custom
        self.peers = {}
        self.parts = [_Column(self, "pk", self.model._meta.pk, "pk")]
        fields = _model_fields(self.model)
        for name in _select_shown(self.model, self.endpoint_class, self.encoder):
            self.parts.append(self._make_part(name, fields.get(name)))
        self.lookups = []
        self.joins = []
        self.managers = {}
        for part in self.parts:
            part.start = len(self.lookups)
            self.lookups.extend(part.lookups)
            if isinstance(part, _JoinedKey):
                self.joins.extend(part.joins)
            elif isinstance(part, _Tags):
                self.managers[part.name] = part
        self.names = [part.name for part in self.parts]
        keys = [f"{_dump(name)}:%s" for name in self.names]
        self.template = "{" + ",".join(keys) + "}"
        self.needs_records = (
            self.is_custom
            or self.asks_can_get
            or _needs_instances(self.model)
            or any(part.needs_records for part in self.parts)
        )

    def _make_part(self, name, field):
        if field is None:
            return self._make_extra(name)
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

    def _make_extra(self, name):
        """Return the part for a name that is no field with a column."""
        for field in self.model._meta.private_fields:
            if field.name == name and hasattr(field, "ct_field"):
                return _GenericKey(self, name, field)
        return _Extra(self, name)

    def _make_key(self, field):
        """Return the part for a foreign key: a pk, or a record, joined or fetched."""
        related = field.remote_field.model
        levels = self._find_levels(field.name, related)
        if levels is None:
            return _ForeignKey(self, field)
        if self._can_join(field, related):
            self.expansions.joins_left -= _count_tables(related)
            return _JoinedKey(self, field, self.find_plan(field.name, related))
        peers_key = (related, repr(levels))
        if peers_key not in self.peers:
            self.peers[peers_key] = self.find_plan(field.name, related), []
        related_plan, peers = self.peers[peers_key]
        return _FetchedKey(self, field, related_plan, peers)

    def _can_join(self, field, related):
        """Return whether an expanded foreign key is read by a join.

        A constraint must guard it, since a join loses the row of a key to nothing; the
        project must not choose the related records; and enough joins must be left.
        """
        if not field.db_constraint:
            return False
        if _is_narrowed(related, endpoint.find(related)):
            return False
        return self.expansions.joins_left >= _count_tables(related)

    def find_plan(self, name, related):
        """Return the plan for the records that a name expands to, None for pks."""
        levels = self._find_levels(name, related)
        if levels is None:
            return None
        self.expansions.models.append(related)
        return _Plan(related, has_user=self.has_user, levels=levels, outer=self)

    def _find_levels(self, name, related):
        """Return how far a relation is expanded, None if only the pk is shown.

        The pk is shown if no levels are left, if the model is closed, or if its hooks
        want a user and there is none.
        """
        endpoint_class = endpoint.find(related)
        if endpoint.is_closed(related):
            return None
        if not self.has_user and _wants_user(endpoint_class):
            return None
        if len(self.expansions.models) >= _MAX_EXPANSIONS:
            return None
        if isinstance(self.levels, dict):
            return self.levels.get(name)
        if self.levels < 1 or related._meta.concrete_model in self.ancestors:
            return None
        levels = _levels(endpoint_class.expand)
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
        }
        if part := self._make_writable_key(never):
            writable["pk"] = part
            writable[part.field.name] = part
        elif not never.isdisjoint(self._key_names):
            never |= self._key_names
        return {name: part for name, part in writable.items() if name not in never}

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
        """Return the schema of a record. If it `is_written` too, mark what is not."""
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
        """Let the model's encoder say what is shown, within what its endpoint shows."""
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
    def _hidden_names(self):
        """The names of the model's fields that its endpoint does not show."""
        visible = _select_visible(self.model, self.endpoint_class)
        names = set()
        for name, field in _model_fields(self.model).items():
            if name not in visible:
                names.update([name, getattr(field, "attname", name)])
        return names


def _count_tables(model):
    """Return how many tables a join of a model takes: its own and its parents'."""
    return 1 + len(model._meta.all_parents)


def _wants_user(endpoint_class):
    """Return whether an endpoint class says who may see which records, or nobody may.

    The default login is not asked: it is no rule about these records.
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
    def _rows(self):
        """The query for all rows; None if the project chooses or needs the records."""
        if self.plan.is_narrowed or self.plan.needs_records:
            return None
        return self.model._default_manager.values_list(*self.plan.lookups)

    @cached_property
    def _one_by_pk(self):
        rows = self._rows.order_by().filter(pk=_PLACEHOLDER)
        return _Statement(rows, self.model._meta.pk)

    @cached_property
    def _all_in_order(self):
        return _Statement(_in_order(self._rows, self.plan.endpoint_class.ordering))

    @cached_property
    def _count(self):
        count = models.Func(template="COUNT(*)", output_field=models.IntegerField())
        return _Statement(self.model._default_manager.order_by().values_list(count))

    @cached_property
    def _locked_by_pk(self):
        rows = self.model._default_manager.order_by().select_for_update()
        rows = rows.filter(pk=_PLACEHOLDER).values_list(*self._attribute_names)
        return _Statement(rows, self.model._meta.pk)

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
        if self._rows is not None:
            return self._rows
        queryset = model_endpoint.get_queryset(model_endpoint.request)
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
        if self._rows is not None:
            return self._one_by_pk.load(using or self._rows.db, model_endpoint, [pk])
        queryset = self.get_queryset(model_endpoint).filter(pk=pk)[:1]
        if using:
            queryset = queryset.using(using)
        return self.load(queryset, model_endpoint)

    def load_page(self, model_endpoint, conditions, order, start, size):
        """Return the batch of a page of the records that match, and how many match."""
        queryset = self.get_queryset(model_endpoint)
        is_whole = queryset is self._rows and not conditions
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
            rows = models.QuerySet(self.model, using=using)
            list(rows.select_for_update().filter(pk=pk))

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
        return self.make_batch(records, using, request)

    def _convert_keys(self, records, field):
        """Make the project's "5" the 5 that a prefetch finds the related record by."""
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
            if model_endpoint.can_get(model_endpoint.user, record):
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
        has_user = request is not None
        plan = make_plan(model, None, has_user, html_escape, chosen_encoder)
        texts = plan.encode(plan.reader.adopt(same, request))
        for record, text in zip(same, texts, strict=True):
            encoded[id(record)] = _load(text)
    return [encoded[id(record)] for record in records]


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
        _make_plan.cache_clear()

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
        _make_plan.cache_clear()


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
        record is shown as its pk if its endpoint overrides `can_get` or `get_queryset`.
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
        _refuse_names(encoder_class)
        return encoder() if encoder is encoder_class else encoder


encoder = _EncoderRegistry()


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
            raise ValueError(_("Null characters and lone surrogates are not allowed."))
        if float in classes and not all(map(math.isfinite, _pick(float, level))):
            raise ValueError(_("NaN and infinities are not allowed."))
        if dict not in classes and list not in classes:
            return
        level = _next_level(level, checks_texts)
    raise ValueError(_("It is nested too deeply."))


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
                raise ValueError(f"{error} (in {_dump(key)})") from None
        raise


_REPEATED_KEY = gettext_lazy('The key "%s" stands twice.')


def _make_object(pairs):
    """Return the dict for a JSON object; raise ValueError if a key stands twice."""
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
        raise ValueError(_("It is nested too deeply.")) from None
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
        kind = "JSON" if request.content_type == _JSON_TYPE else _("form")
        message = _("The body is not valid (%(kind)s): %(error)s")
        raise AJAXError(400, message % {"kind": kind, "error": error}) from None


def _check_form(request):
    """Raise ValueError for a form with texts that are no UTF-8 or cannot be stored."""
    if request.content_type == _FORM_TYPE:
        body = request.body
        if body.isascii() and not _ODD_BYTES.search(body):
            return
        unquote_to_bytes(body).decode()  # Django would replace what is no UTF-8.
    texts = dict(request.POST.lists())
    _check_body(texts | dict.fromkeys(request.FILES))


def _read_json_part(request):
    """Return the object in the text part application/json, with the files in it.

    Raise ValueError for a bad object, for another text beside it, and for a key that
    is sent twice.
    """
    others = request.POST.keys() - {_JSON_TYPE, "csrfmiddlewaretoken"}
    if others or len(request.POST.getlist(_JSON_TYPE)) > 1:
        raise ValueError(_("Beside the text application/json, send only files."))
    data = _parse_json(request.POST[_JSON_TYPE])
    if not isinstance(data, dict):
        raise ValueError(_("The text application/json has to be an object."))
    for key, files in request.FILES.lists():
        name = key.removesuffix("[]")
        if name in data or (name == key and len(files) > 1):
            raise ValueError(_REPEATED_KEY % name[:100])
        data[name] = files[0] if name == key else files
    return data


class _FormValue(list):
    """The texts and files that a form has for one key; a key that ends with [] gets a
    plain list."""


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
                sent[name] = _FormValue() if name == key else []
            sent[name].extend(values)
    return sent


def _only_value(sent):
    """Return the one value of a form's key; return any other value as it is."""
    if isinstance(sent, _FormValue) and len(sent) == 1:
        return sent[0]
    return sent


def _unknown_key(key, known_names):
    """Return the message for an unknown key, with the name that may be meant."""
    close = _find_close(key, known_names)
    if close:
        return _('Unknown key. Did you mean "%s"?') % close
    return _("Unknown key.")


def _refuse_unknown(sent, shown):
    """Return an error for each key that is not shown, up to a number."""
    errors = {}
    for key in sent:
        if key not in shown and len(errors) < _MAX_EXPLAINED_KEYS:
            errors[key] = [_unknown_key(key, shown)]
    return errors


def _invalid_value():
    return ValidationError(_("This value cannot be read."))


def _read_single(field, sent):
    """Return the one value that was sent for a field, None for NULL."""
    value = sent
    if isinstance(sent, _FormValue):
        if len(sent) != 1:
            raise ValidationError(_("This key takes one value."))
        value = sent[0]
        is_text = isinstance(field, _TEXT_FIELDS)
        if value in ("", "null") and field.null and not is_text:
            value = None
    if value is None and not field.null:
        raise ValidationError(field.error_messages["null"])
    return value


def _read_several(sent):
    """Return the list that was sent; a form may send it as the text of a JSON list."""
    if sent == [""]:
        return []
    text = _only_value(sent)
    if isinstance(text, str) and text.startswith("[") and text is not sent:
        with contextlib.suppress(ValueError):
            sent = _parse_json(text)
    if not isinstance(sent, list):
        raise ValidationError(_("This key takes a list."))
    return sent


def _as_text(value):
    """Return a JSON text or number as text; raise ValidationError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _invalid_value()
    return str(value)


def _read_text(field, value, is_form):
    """Read a JSON text or number as the text that a form would send."""
    value = field.to_python(_as_text(value))
    if isinstance(value, datetime.datetime):
        value = _read_datetime(value)
    _check_storable(value)
    return value


#: What forms send for booleans, besides the texts that BooleanField takes.
_BOOLEANS = {"true": True, "on": True, "false": False, "off": False, "": False}


def _read_boolean(field, value, is_form):
    if not isinstance(value, bool):
        value = _BOOLEANS.get(_as_text(value).lower(), value)
    return field.to_python(value)


def _read_json(field, value, is_form):
    return _parse_json(value) if is_form else value


def _read_file_path(field, value, is_form):
    return field.formfield(required=not field.blank).clean(value)


def _read_array(field, value, is_form):
    if isinstance(value, str):
        value = _parse_json(value)
    if not isinstance(value, list):
        raise _invalid_value()
    return [_read_value(field.base_field, item) for item in value]


class _Kind(NamedTuple):
    """A kind of field: its types and format in JSON Schema, and how a value is read."""

    types: tuple = ()
    format: str = ""
    #: Called with the field, the value, and whether a form sent it.
    read: Callable = _read_text


#: The kinds of fields, by the name of a class: models and forms name theirs alike. A
#: subclass follows its nearest base listed here. How values become JSON is not said
#: here but in _CONVERSIONS, since functions return values of no field.
_KINDS = {
    "ArrayField": _Kind(read=_read_array),
    # The database counts these keys from 1: none gets so large that it becomes text.
    "BigAutoField": _Kind(("integer",)),
    "BigIntegerField": _Kind(("integer", "string")),
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
    "IntegerField": _Kind(("integer",)),
    "JSONField": _Kind(read=_read_json),
    "TextField": _Kind(("string",)),
    "TimeField": _Kind(("string",), "time-local"),
    "UUIDField": _Kind(("string",), "uuid"),
}


def _find_kind(field):
    for base in type(field).__mro__:
        if base.__name__ in _KINDS:
            return _KINDS[base.__name__]
    return _Kind()


def _check_integer(field, value):
    """Raise ValidationError for an integer that JavaScript would round, unless the
    field is for such ones. SQLite's integer columns all take them."""
    is_small = _find_kind(field).types == ("integer",)
    if is_small and not _takes_large_integers(field) and value is not None:
        field.run_validators(value)
        MaxValueValidator(_MAX_SAFE_INTEGER)(value)
        MinValueValidator(-_MAX_SAFE_INTEGER)(value)


def _takes_large_integers(form_field):
    """Return whether a field of a form is that of a BigIntegerField."""
    max_value = getattr(form_field, "max_value", None)
    return isinstance(max_value, int) and max_value > _MAX_SAFE_INTEGER


def _read_value(field, sent):
    """Return the value that a field, no relation or file, makes of what was sent.

    Whether it is a good value (its length, range, choice) is for validation to say.
    """
    value = _read_single(field, sent)
    if value is None:
        return None
    try:
        return _find_kind(field).read(field, value, isinstance(sent, _FormValue))
    except (ArithmeticError, TypeError, ValueError):
        raise _invalid_value() from None


#: Date-times within these days are valid in every time zone.
_FIRST_DAY = datetime.date(1, 1, 2)
_LAST_DAY = datetime.date(9999, 12, 30)


def _read_datetime(value):
    """Return a date-time as USE_TZ wants it; raise ValueError at the calendar's end."""
    value = from_current_timezone(value)
    if timezone.is_aware(value):
        value = value.astimezone(datetime.timezone.utc)
    if not _FIRST_DAY <= value.date() <= _LAST_DAY:
        raise ValueError(_("The date-time is at the end of the calendar."))
    if timezone.is_aware(value) and not settings.USE_TZ:
        return timezone.make_naive(value)
    return value


def _read_pk(model, sent):
    """Return a pk, or the pk of an object that holds one, as its field has it."""
    if isinstance(sent, dict):
        sent = sent.get("pk")
    field = _root_key(model)
    if isinstance(field, models.IntegerField):
        # To Python 1_0 is a number, too.
        if not re.fullmatch("-?[0-9]+", str(sent)):
            raise _invalid_value()
    pk = _read_value(field, sent)
    field.run_validators(pk)
    return pk


def _read_file(field, sent):
    """Return the upload, False to clear the file, or None to leave it as it is."""
    value = _only_value(sent)
    if value is None or value == "null":
        return False
    if isinstance(value, File):
        return field.formfield(required=False).clean(value, None)
    if not isinstance(value, str):
        raise _invalid_value()
    return None


def _read_tags(manager, sent):
    """Return the tag names that were sent: a list, or text as taggit parses it.

    Each name is validated by the `name` field of the manager's tag model.
    """
    from taggit.utils import parse_tags

    value = _only_value(sent)
    if isinstance(value, str):
        value = parse_tags(value)
    if not isinstance(value, list) or len(value) > _MAX_TAGS:
        raise ValidationError(_("Tags are text, or a list of at most %s.") % _MAX_TAGS)
    field = manager.remote_field.model._meta.get_field("name")
    names = set()
    for tag in value:
        name = tag.get("name") if isinstance(tag, dict) else tag
        if not isinstance(name, str):
            raise _invalid_value()
        names.add(field.clean(name, None))
    return sorted(names)


# --- What clients may ask of a list ---------------------------------------------------

#: Lookups that compare with a value as the field itself has it.
_COMPARISONS = {"exact", "gt", "gte", "lt", "lte"}
_DATE_PARTS = {
    "date", "time", "year", "iso_year", "quarter", "month", "week", "week_day",
    "iso_week_day", "day", "hour", "minute", "second",
}  # fmt: skip
#: The lookups that a filter may use. Patterns are not among them, since one can run for
#: ever; nor are the lookups of arrays and ranges, which take no plain text.
_LOOKUPS = {
    *_COMPARISONS, *_DATE_PARTS, "isnull", "in", "iexact", "contains", "icontains",
    "startswith", "istartswith", "endswith", "iendswith",
}  # fmt: skip


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


def _is_offered(field, lookups):
    """Return whether a filter may use these lookups on a field."""
    if _is_special(field) or hasattr(field, "base_field"):
        return lookups == ["isnull"]
    if isinstance(field, models.JSONField) and lookups:
        own_lookups = field.get_lookups()
        if lookups[0] in own_lookups:
            return lookups in (["isnull"], ["exact"])
        # The names before the lookup are keys of the JSON.
        lookups = [lookup for lookup in lookups if lookup in own_lookups]
    if not lookups:
        return True
    return lookups[-1] in _LOOKUPS and _DATE_PARTS.issuperset(lookups[:-1])


def _read_whole_number(sent, default):
    """Return a whole number that was sent, the default for anything else."""
    text = str(sent[0] if isinstance(sent, _FormValue) else sent)
    if not re.fullmatch("-?[0-9]+", text):
        return default
    return min(int(text[:30]), _MAX_SAFE_INTEGER)


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
        for name, part in self.model_endpoint._plan.managers.items():
            makers[name] = part.match_any
        for entry in self.model_endpoint.list_filter:
            makers[entry] = partial(self.match_any, entry)
        if self.model_endpoint.search_fields:
            makers["search"] = self.search
        return makers

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
                else:
                    conditions.append(self.read_condition(key, value))
            except ValidationError as error:
                errors[key] = error.messages
            except (ArithmeticError, LookupError, TypeError, ValueError):
                errors[key] = _invalid_value().messages
            if len(errors) == _MAX_EXPLAINED_KEYS:
                break
        if errors:
            raise AJAXError(400, _("Invalid parameters."), errors=errors)
        return order, conditions

    def read_condition(self, key, value):
        """Return the condition that a key and its value make."""
        if key in self.condition_makers:
            return self.condition_makers[key](value)
        known_keys = [*self.condition_makers, "order_by"]
        known_keys += ["items_per_page", "current_page"]
        raise ValidationError(_unknown_key(key, known_keys))

    def read_order(self, value):
        """Return the names to order by, of a list or a text with commas."""
        texts = value if isinstance(value, list) else [value]
        keys = []
        for text in texts:
            if not isinstance(text, str):
                raise _invalid_value()
            keys += [key.strip() for key in text.split(",") if key.strip()]
        if len(keys) > _MAX_SORT_KEYS:
            raise ValidationError(_("At most %s names.") % _MAX_SORT_KEYS)
        sortable = self.model_endpoint.sortable_by
        for key in keys:
            if key.removeprefix("-") not in sortable:
                raise ValidationError(_unknown_key(key, sortable))
        return keys

    def search(self, value):
        """Return the condition that the admin's search finds a record."""
        text = _only_value(value)
        if not isinstance(text, str) or len(text) > _MAX_FILTER_LENGTH:
            raise _invalid_value()
        if len(text.split()) > _MAX_SEARCH_WORDS:
            raise ValidationError(_("At most %s words.") % _MAX_SEARCH_WORDS)
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
        rows, _may_repeat = model_admin.get_search_results(
            self.model_endpoint.request, self.model._base_manager.all(), text
        )
        return Q(pk__in=rows.values("pk"))

    # Relations of which the endpoints may hide records

    def split_at_hiding(self, path_name):
        """Return the first relation on a path that may hide records from the user, and
        the rest of the path; return None and the path if there is none."""
        names = path_name.split("__")
        for length in range(1, len(names)):
            relation = "__".join(names[:length])
            rest = "__".join(names[length:])
            field, lookups = _end_of_path(self.model, relation)
            related = getattr(field, "related_model", None)
            if lookups or related is None:
                break
            next_field, _rest = _end_of_path(related, rest)
            looks_inside = next_field is not None and next_field is not related._meta.pk
            if looks_inside and self.access.may_hide(related):
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
            rows = self.model._base_manager.filter(is_related)
            return Q(pk__in=rows.values("pk"))
        return is_related

    # Filters

    def match_any(self, entry, value):
        """Return the condition that an entry of `list_filter` has one of the values.

        Behind a relation, only records are looked at that the user may see.
        """
        from django.contrib.admin.utils import lookup_spawns_duplicates

        relation, rest = self.split_at_hiding(entry)
        if relation:
            condition = self.make_related(relation).match_any(rest, value)
            return self.match_related(relation, condition)
        values = value if isinstance(value, list) else [value]
        if len(values) > _MAX_FILTER_VALUES:
            raise ValidationError(_("At most %s values.") % _MAX_FILTER_VALUES)
        alternatives = [Q(pk__in=[])]
        for item in values:
            alternatives.append(self.match(entry.removesuffix("__in"), item))
        condition = Q.create(alternatives, connector=Q.OR)
        rows = self.model._base_manager.filter(condition)
        with contextlib.suppress(core_exceptions.EmptyResultSet):
            # Compile it now: an impossible value, such as a year 10000, raises here.
            _Statement(rows).compile(rows.db)
        if lookup_spawns_duplicates(self.model._meta, entry):
            return Q(pk__in=rows.values("pk"))
        return condition

    def match(self, entry, value):
        """Return the condition that an entry has one value."""
        field, lookups = _end_of_path(self.model, entry)
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
        if isinstance(value, str) and len(value) > _MAX_FILTER_LENGTH:
            raise ValidationError(_("At most %s characters.") % _MAX_FILTER_LENGTH)
        return Q((entry, value))

    def is_null(self, field, value):
        """Return whether a value means NULL: a form says it with a text."""
        if value is None:
            return True
        return value == "null" and not isinstance(field, _TEXT_FIELDS)

    def describe(self):
        """Return the schemas of all that may be sent, by key."""
        properties = {}
        for name in self.model_endpoint._plan.managers:
            properties[name] = _or_several({"type": ["string"]})
        for entry in self.model_endpoint.list_filter:
            field, lookups = _end_of_path(self.model, entry.removesuffix("__in"))
            properties[entry] = _or_several(_describe_filter(field, lookups))
            _add_help_text(properties[entry], field)
        if self.model_endpoint.search_fields:
            properties["search"] = _TEXT
        if self.model_endpoint.sortable_by:
            names = ", ".join(self.model_endpoint.sortable_by)
            description = f"{names}; a minus sign before a name reverses its order."
            order = _or_several({"type": ["string"]})
            properties["order_by"] = {**order, "description": description}
        properties["items_per_page"] = _NUMBER
        properties["current_page"] = _NUMBER
        return properties


# --- Decorators -----------------------------------------------------------------------


def _login_url():
    """Return the address of the login page as keywords of an AJAXError."""
    return {"login_url": resolve_url(settings.LOGIN_URL)}


def _require_login(request):
    if not request.user.is_authenticated:
        raise AJAXError(403, _("User must be authenticated."), **_login_url())


def login_required(view: Callable) -> Callable:
    """Let only logged-in users call an endpoint, sync or async.

    Raise AJAXError 403 with the address of the login page for anybody else.
    """

    @functools.wraps(view)
    def guarded_view(request, *args, **kwargs):
        _require_login(request)
        return view(request, *args, **kwargs)  # An async view returns its coroutine.

    guarded_view.wants_login = True
    return guarded_view


def json_response(view: Callable) -> Callable:
    """Give any view the replies of an endpoint: JSON for what it returns and raises."""

    @functools.wraps(view)
    def json_view(request, *args, **kwargs):
        try:
            with contextlib.ExitStack() as stack:
                _enter_atomic_requests(stack, json_view)
                result = _run_view(view, request, *args, **kwargs)
                return _success_response(result, request)
        except Exception as error:
            return _error_response(request, error)

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


@functools.lru_cache(maxsize=256)
def _count_places(function):
    """Return how many arguments a function takes by position."""
    places = 0
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return sys.maxsize
        if parameter.kind < parameter.VAR_POSITIONAL:
            places += 1
    return places


@functools.lru_cache(maxsize=256)
def _takes_keyword(function, name):
    """Return whether a function takes a keyword argument of a name."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD or parameter.name == name:
            return True
    return False


def _call_hook(hook, *arguments, **modified):
    """Call a hook with as many arguments as it takes: the old package's took fewer.

    A hook that takes `modified` as a keyword gets it so.
    """
    function = getattr(hook, "__func__", hook)
    if modified and not _takes_keyword(function, "modified"):
        arguments = (*arguments, modified.pop("modified"))
    places = _count_places(function)
    if function is not hook:
        places -= 1  # The place of `self`.
    return hook(*arguments[:places], **modified)


def _takes_one(function, *before):
    """Return whether something can be called with one argument, after those before."""
    try:
        inspect.signature(function, follow_wrapped=False).bind(*before, None)
    except (TypeError, ValueError):
        return False
    return True


def _takes_request(function, *before):
    """Return whether a function can be called with a request, named so, and no more."""
    names = list(inspect.signature(function).parameters)
    position = len(before)
    if names[position : position + 1] != ["request"]:
        return False
    return _takes_one(function, *before)


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
    """Return a copy of a record, with copies of the lists and dicts in it."""
    copied = copy.copy(record)
    for name, value in vars(copied).items():
        if isinstance(value, (dict, list)):
            setattr(copied, name, copy.deepcopy(value))
    return copied


def _is_same(field, stored, modified):
    """Return whether two instances have the same value, as the field stores it."""
    before = vars(stored).get(field.attname)
    after = vars(modified).get(field.attname)
    if before is after:
        return True
    if isinstance(after, File) and not getattr(after, "_committed", False):
        return False  # A new upload, whatever its name.
    if isinstance(field, models.JSONField):
        return repr(before) == repr(after)  # To Python True equals 1.
    return before == after


def _insert_first(record):
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


class _Draft:
    """A record that is being written: what was sent is read into it, validated, saved.

    `stored` is the record as it is stored, None for a new record. The errors of keys
    wait in `errors` until the user is known to be allowed to write. The values of
    many-to-many relations and tags wait in `relations` until the record is saved.
    """

    def __init__(self, model_endpoint):
        self.model_endpoint = model_endpoint
        self.plan = model_endpoint._plan
        self.request = model_endpoint.request
        self.sent = _read_keys(model_endpoint.request)
        self.errors = {}
        self.relations = {}
        #: By foreign key, the value that refers to a record, as was checked.
        self.checked_keys = {}

    def read_into(self, record, stored=None):
        """Read what was sent into a record."""
        self.record = record
        self.stored = stored
        for key, value in self.sent.items():
            part = self.plan.writable.get(key)
            if part is None or (part.field.primary_key and stored is not None):
                continue
            try:
                part.read(self, value)
            except ValidationError as error:
                self.errors[key] = error.messages
        shown = {*self.plan.names, *self.plan.writable, *_pk_names(self.plan.model)}
        self.errors.update(_refuse_unknown(self.sent, shown))

    def find_related(self, field, pks):
        """Return by pk the records that a relation may refer to; raise ValidationError
        if it may not refer to one of them."""
        if not pks:
            return {}
        related = field.remote_field.model
        rows = self.model_endpoint.get_field_queryset(self.request, field)
        rows = rows.filter(pk__in=pks)
        rows = rows.complex_filter(field.get_limit_choices_to())
        related_endpoint = _get_access(self.request).find_endpoint(related)
        records = {}
        for record in rows:
            if related_endpoint.can_get(related_endpoint.user, record):
                records[record.pk] = record
        for pk in pks:
            if pk not in records:
                message = _("%(model)s with pk %(pk)s does not exist.")
                params = {"model": related._meta.verbose_name, "pk": pk}
                raise ValidationError(message, params=params)
        return records

    @contextlib.contextmanager
    def refusing_first(self):
        """Answer 403 if a hook fails because a value is missing or was not readable: a
        user who must not write learns nothing else."""
        try:
            yield
        except Exception as error:
            is_refusal = isinstance(error, AJAXError) and error.code == 403
            # Django raises it for a foreign key without a value: it is both.
            is_missing = isinstance(error, AttributeError) and isinstance(
                error, core_exceptions.ObjectDoesNotExist
            )
            if is_refusal or not (self.errors or is_missing):
                raise
            raise AJAXError(403, _MESSAGES[403]) from error

    def find_unchanged(self):
        """Return the fields of which the value is stored already."""
        unchanged = set()
        if self.stored is not None:
            for field in self.record._meta.concrete_fields:
                if _is_same(field, self.stored, self.record):
                    unchanged.add(field)
        return unchanged

    def is_changed(self):
        """Return whether any column differs from the stored record."""
        return len(self.find_unchanged()) < len(self.record._meta.concrete_fields)

    def validate(self):
        """Raise AJAXError 400 with the errors of full_clean() and of what was sent.

        Unchanged fields are skipped. clean(), the unique checks and the constraints run
        once all fields are valid.
        """
        record = self.record
        errors = dict(self.errors)
        try:
            record.clean_fields(exclude=self.find_skipped_names())
            if not errors:
                # full_clean() would clean the fields again, and with `exclude` skip
                # unique checks of the fields that it leaves out.
                record.clean_fields = lambda exclude=None: None
                record.full_clean()
        except ValidationError as error:
            for name, messages in _errors_by_field(error).items():
                errors.setdefault(self.find_shown_name(name), []).extend(messages)
        finally:
            vars(record).pop("clean_fields", None)
        if errors:
            raise _invalid(errors)

    def find_skipped_names(self):
        """Return the names of the fields that need no validation: unchanged, checked
        already, or known to be wrong."""
        names = set(self.errors)
        for field in self.find_unchanged():
            names.add(field.name)
        for field, key in self.checked_keys.items():
            if key == getattr(self.record, field.attname):
                names.add(field.name)
        return names

    def find_shown_name(self, name):
        """Return the name under which clients see the errors of a field."""
        if name in self.plan.names:
            return name
        if name in _pk_names(self.plan.model):
            return "pk"
        return core_exceptions.NON_FIELD_ERRORS

    def save_relations(self):
        """Save the values that can be saved only after the record."""
        for name, values in self.relations.items():
            getattr(self.record, name).set(values)


# --- Operations -----------------------------------------------------------------------


class _Operation(NamedTuple):
    """What is known of an operation besides its method."""

    method: str
    #: Whether it wants a record; None for one that is called with or without.
    on_record: bool | None
    #: The hook that allows it, and the action of Django's permission for it.
    hook: str = "can_get"
    permission: str = ""
    #: Whether it only reads.
    reads: bool = False
    #: What the explorer asks the user first.
    question: str = ""
    #: What openapi.json says that it does, of a model and its models.
    summary: str = ""
    is_custom: bool = False


#: The operations of every model. To add one, write its method, a line here, and the
#: schemas of its request and reply in _make_shapes().
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
        question="Take all tags away?",
        summary="Remove all tags from {model}.",
    ),
    "similar": _Operation(
        "_similar",
        True,
        reads=True,
        summary="Return the {models} that share tags with one, most shared first.",
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
            if is_overridden or not inspect.isfunction(value):
                continue
            if _takes_request(inspect.unwrap(value), "self"):
                summary = f"Call `{name}` of {{model}}."
                operations[name] = _Operation(
                    name, None, summary=summary, is_custom=True
                )
    return operations


# --- Endpoints ------------------------------------------------------------------------


class BaseAuthentication:
    """Decides who may call models and forms: every user who is logged in and active.

    Extend it, and name the class in the setting AJAX_AUTHENTICATION.
    """

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
        """The request's user, an anonymous one if there is no request."""
        if self.request is not None:
            return self.request.user
        from django.contrib.auth.models import AnonymousUser

        return AnonymousUser()

    def authenticate(self, request, application, method) -> bool:
        """Return whether the user may call at all; by default AJAX_AUTHENTICATION says
        so."""
        default = f"{__name__}.BaseAuthentication"
        dotted_path = getattr(settings, "AJAX_AUTHENTICATION", default)
        authentication = import_string(dotted_path)()
        return authentication.is_authenticated(request, application, method)

    def _find_operation(self):
        """Return the operation that the path names."""
        return _CALL

    def _authorize(self, request):
        """Raise AJAXError 403 if the user may not call, 415 if the body's type is none
        that is read."""
        self.request = request
        if not self.authenticate(request, self.application, self.method):
            extra = {} if self.user.is_authenticated else _login_url()
            raise self._refusal("authenticate", _("User is not authorized."), **extra)
        if request.content_type not in _TYPES and request.body:
            raise AJAXError(415, _("Send %s.") % ", ".join(_TYPES))

    def _run(self, request):
        """Return what the operation returns."""
        return _run_view(getattr(self, self._operation.method), request)

    def _refusal(self, hook, message=_MESSAGES[403], **extra):
        """Return the AJAXError 403 for a hook that said no."""
        hint = _hint(f"{hook} of {type(self).__name__} returned False")
        return AJAXError(403, message, **extra, **hint)


class ModelEndpoint(_ServedEndpoint):
    """Serves the records of a model, the way ModelAdmin does; register a subclass.

    Every hook can use `self.request`, `self.user`, `self.model`, `self.pk` and
    `self.record`. A public method of which the only required argument is `request` is
    an operation of its own, with or without a record.
    """

    # Options: what is shown and written

    #: The names that clients see and may send; None and "__all__" are all model fields.
    #: It may also name properties and methods, of the endpoint (whose methods get the
    #: record) or of the model.
    fields: Any = None
    #: The names that clients neither see nor send.
    exclude: Any = ()
    #: The names that clients see and never write; `immutable_fields` is the old name.
    readonly_fields: Any = ()
    immutable_fields: Any = ()
    #: The foreign keys that are shown as whole records: True for all, a number of
    #: levels, names such as "category__parent", or False for none.
    expand: Any = True

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
        with _transaction(self._using):
            # Code of the project's that tracks changes wants the very instance that was
            # read to be saved.
            modified = self._get_record(locked=True)
            self.record = stored = _copy_record(modified)
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
            ajax_deleted.send(
                sender=self.model, instance=record, payload=payload, request=request
            )
            return payload

    def list(self, request):
        """Return a page of records; `total` and the like go beside them."""
        if not self.can_list(self.user):
            raise self._refusal("can_list")
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
            part = self._plan.managers[self.method]
            command = getattr(getattr(record, self.method), self.command)
            if self.command == "clear":
                command()
            elif self.command == "set":
                command(self._read_tag_names(request, part.field))
            else:
                command(*self._read_tag_names(request, part.field))
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
            raise AJAXError(400, _("Invalid request for record."))
        if has_record and operation.on_record is False:
            raise self._no_operation()
        return operation

    def _find_command(self):
        """Return the operation of a tags command; a manager that clients may not write
        has only `similar`."""
        if not self._offers(self.method) or self.method not in self._plan.managers:
            raise self._no_operation()
        operation = _COMMANDS.get(self.command)
        if operation and (operation.reads or self.method in self._plan.writable):
            return operation
        raise _missing(_("Invalid method."), self.command, _COMMANDS)

    def _offers(self, name):
        """Return whether `operations` has an operation, or a tags manager."""
        return self.operations is None or name in self.operations

    def _no_operation(self):
        """Return the AJAXError 404 for an operation that is not offered."""
        names = self.operations
        if not names:
            names = {*_operations(type(self)), *self._plan.managers}
        return _missing(_("Invalid method."), self.method, names)

    def _run(self, request):
        """Return what the operation returns; a custom one on a record wants can_get to
        allow it."""
        if self._operation.is_custom and self.pk is not None:
            self._get_visible_record()
        return super()._run(request)

    def _permit(self, name, *records, **modified):
        """Raise AJAXError 403 unless the hook of an operation allows it, and the user
        has the permission, if it is wanted."""
        operation = _OPERATIONS[name]
        hook = getattr(self, operation.hook)
        if not _call_hook(hook, self.user, *records, **modified):
            raise self._refusal(operation.hook)
        if self._wants_permissions:
            opts = self.model._meta
            codename = get_permission_codename(operation.permission, opts)
            permission = f"{opts.app_label}.{codename}"
            if not self.user.has_perm(permission):
                hint = _hint(f"the user lacks {permission}")
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
        if not self.can_get(self.user, record):
            raise self._refusal("can_get")
        return record

    def _not_found(self):
        message = _('%(model)s with id of "%(pk)s" not found.')
        return AJAXError(404, message % {"model": self.model.__name__, "pk": self.pk})

    def _show_written(self, pk):
        """Return a written record as `get` shows it, only its pk if `get` would not."""
        reader = self._plan.reader
        batch = reader.drop_refused(reader.load_one(pk, self, self._using))
        texts = self._plan.encode(batch)
        return _load(texts[0]) if texts else {"pk": pk}

    # Lists and tags

    def _get_page_sizes(self):
        """Return the usual and the largest size of a page."""
        largest = self.max_per_page
        if largest is None:
            largest = getattr(settings, "AJAX_MAX_PER_PAGE", 100)
        return min(self.list_per_page, largest), largest

    def _similar(self, request):
        """Return the records that share tags with this one, most shared first."""
        record = self._get_visible_record()
        reader = self._plan.reader
        using = self.get_queryset(request).db
        queryset = reader.get_queryset(self).exclude(pk=record.pk)
        part = self._plan.managers[self.method]
        queryset = part.rank(queryset, record.pk, using)
        size, _largest = self._get_page_sizes()
        texts = self._plan.encode(reader.load_visible(queryset[:size], self))
        return [_load(text) for text in texts]

    def _read_tag_names(self, request, manager):
        """Return the names of the tags that were sent, or raise AJAXError 400."""
        sent = _read_keys(request)
        errors = _refuse_unknown(sent, ["tags"])
        names = []
        try:
            names = _read_tags(manager, sent.get("tags"))
        except ValidationError as error:
            errors["tags"] = error.messages
        if errors:
            raise _invalid(errors)
        return names


class FormEndpoint(_ServedEndpoint):
    """Serves a Django form: validates what is sent, saves it, returns the result."""

    def get_form_kwargs(self, request) -> dict[str, Any]:
        """Return further keyword arguments for the form, such as `instance`."""
        return {}

    def create(self, request):
        """Return what `form.save()` returned, else the cleaned data, records as pks."""
        form = self._make_form(request)
        if not _is_valid(form):
            raise _invalid(form.errors)
        if hasattr(form, "instance"):
            _insert_first(form.instance)
        if hasattr(form, "save"):
            return form.save()
        for name, value in form.cleaned_data.items():
            field = form.fields.get(name)
            if isinstance(field, forms.ModelChoiceField):
                form.cleaned_data[name] = field.prepare_value(value)
        return form.cleaned_data

    def _run(self, request):
        """Return what `create` does; a ModelForm is one transaction up to the reply."""
        options = getattr(self.model, "_meta", None)
        if options is None:
            return super()._run(request)
        with _transaction(router.db_for_write(options.model)):
            return _success_response(super()._run(request), request)

    def _make_form(self, request):
        """Return the form with what was sent."""
        kwargs = {
            "data": _make_form_data(self.model, request),
            "files": _make_form_files(request),
            **self.get_form_kwargs(request),
        }
        form = self.model(**kwargs)
        for field in form.fields.values():
            field.clean = partial(_clean_storable, field.clean, field)
        return form


def _is_valid(form):
    """Return whether a form is valid; raise ValidationError for base64 that is none."""
    try:
        return form.is_valid()
    except (binascii.Error, UnicodeEncodeError):
        # Django 5.2 raises them for a BinaryField.
        raise _invalid_value() from None


def _clean_storable(clean, field, value, *initial):
    """Clean a value as its form field does; raise ValidationError also if no database
    could store it."""
    try:
        if isinstance(field, forms.JSONField) and isinstance(value, str):
            _parse_json(value or "null")
        cleaned = _check_times(clean(value, *initial))
        _check_storable(cleaned)
        _check_integer(field, cleaned)
        return cleaned
    except (ArithmeticError, RecursionError, TypeError, ValueError):
        # What Django's fields let through: numbers beyond a column, odd base64.
        raise _invalid_value() from None


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


def _make_form_data(form_class, request):
    """Return a form's data: JSON values become the texts that a browser would send.

    Raise TooManyFieldsSent for more values than a form may have.
    """
    data = MultiValueDict()
    for key, value in _read_keys(request).items():
        is_json_field = isinstance(form_class.base_fields.get(key), forms.JSONField)
        if is_json_field and not isinstance(value, _FormValue):
            data[key] = _dump(value)
        elif value is not None:
            data.setlist(key, _make_texts(value))
    limit = settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
    if limit is not None and sum(map(len, dict(data.lists()).values())) > limit:
        raise core_exceptions.TooManyFieldsSent(_("It has too many values."))
    several = (forms.MultipleChoiceField, forms.ModelMultipleChoiceField)
    for name, field in form_class.base_fields.items():
        if isinstance(field, several) and data.getlist(name) == [""]:
            data.setlist(name, [])  # So a page says that nothing is chosen.
    return data


def _make_form_files(request):
    """Return a form's files, by their keys without []."""
    files = MultiValueDict()
    for key, value in request.FILES.lists():
        for file in value:
            files.appendlist(key.removesuffix("[]"), file)
    return files


def _make_texts(value):
    """Return the texts that a form would send for a value; files are not among them."""
    texts = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            texts.append(item)
        elif not isinstance(item, File):
            texts.append(_dump(item))
    return texts


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
        if model and isinstance(model, (list, tuple, set)):
            for item in model:
                self.register(item, endpoint_class)
            return
        base = _find_base(model)
        endpoint_class = endpoint_class or base
        _check_served(model, endpoint_class, base)
        if base is ModelEndpoint and model._meta.swapped:
            return
        if model in self._registry:
            raise AlreadyRegistered(f"{_label(model)} is registered already.")
        paths = [(base, *pair) for pair in _find_paths(model, endpoint_class)]
        for key in paths:
            self._check_free(key, model)
        self._add(model, endpoint_class)
        self._paths.update(dict.fromkeys(paths, model))

    def _check_free(self, key, model):
        if key in self._paths:
            _base, label, name = key
            labels = f"{_label(model)} and {_label(self._paths[key])}"
            raise AlreadyRegistered(f"{labels} are both at {label}/{name}.json.")

    def unregister(self, model) -> None:
        """Serve a model or form no more; raise NotRegistered if it is not served."""
        super().unregister(model)
        for key, served in list(self._paths.items()):
            if served is model:
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
        tables = _find_tables(model)
        for served in self._registry:
            if issubclass(served, models.Model):
                if not tables.isdisjoint(_find_tables(served)):
                    return True
        return False


def _find_tables(model):
    """Return a model and its parents, as the models that their tables are of."""
    return {base._meta.concrete_model for base in (model, *model._meta.all_parents)}


def _find_base(served):
    """Return the base class of the endpoints for a model or form."""
    if isinstance(served, type):
        if issubclass(served, models.Model):
            return ModelEndpoint
        if issubclass(served, forms.BaseForm):
            return FormEndpoint
    raise ImproperlyConfigured(f"{served!r} is neither a model nor a form.")


def _check_served(served, endpoint_class, base):
    """Raise ImproperlyConfigured for what cannot be served, or would be open."""
    if not issubclass(endpoint_class, base):
        raise ImproperlyConfigured(f"{_label(served)} wants a {base.__name__}.")
    if base is ModelEndpoint:
        pk = served._meta.pk
        if pk is None or isinstance(pk, models.CompositePrimaryKey):
            message = f"{_label(served)} has no primary key of one field."
            raise ImproperlyConfigured(message)
    _refuse_old_exclude(served)
    _refuse_names(endpoint_class)
    if base is ModelEndpoint:
        _refuse_reverse_relations(served, endpoint_class)


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


def _find_asked_names():
    """Return the names of all options and hooks."""
    names = set()
    for base in (ModelEndpoint, FormEndpoint, DefaultEncoder):
        names.update(name for name in dir(base) if not name.startswith("_"))
    # The operations and what an instance has at hand are none.
    return names - {*_OPERATIONS, "tags", "request", "user", "record"}


_ASKED_NAMES = _find_asked_names()
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


def _refuse_names(checked_class):
    """Raise ImproperlyConfigured for a name that does not do what it says: what it was
    meant to close would be open."""
    for name, value in _find_own_names(checked_class).items():
        advice = _advise(checked_class, name, value)
        if advice:
            full_name = f"{checked_class.__module__}.{checked_class.__name__}.{name}"
            raise ImproperlyConfigured(f"Nothing asks {full_name}: {advice}")


def _advise(checked_class, name, value):
    """Return what to do instead of giving a class this name, None if it is fine."""
    if name in _OLD_NAMES:
        return _OLD_NAMES[name]
    if _is_internal(checked_class, name):
        return "the base class uses this name itself: choose another one."
    if name in _INSTANCE_NAMES and inspect.isfunction(value):
        return "each instance has an attribute of this name: choose another one."
    is_operation = inspect.isfunction(value) and _takes_request(value, "self")
    if name in _ASKED_NAMES or is_operation:
        return None
    close = _find_close(name, _ASKED_NAMES, 0.88)
    return close and f"did you mean {close}?"


def _is_internal(checked_class, name):
    """Return whether a base class of this module has a name for its own use."""
    if not name.startswith("_") or name.endswith("__"):
        return False
    for base in checked_class.__mro__:
        if base.__module__ == __name__ and name in vars(base):
            return True
    return False


def _refuse_old_exclude(model):
    """Raise ImproperlyConfigured for a model with the old package's __exclude__."""
    if "__exclude__" in _find_own_names(model):
        full_name = f"{model.__module__}.{model.__name__}.__exclude__"
        advice = _OLD_NAMES["__exclude__"]
        raise ImproperlyConfigured(f"Nothing asks {full_name}: {advice}")


def _find_own_names(checked_class):
    """Return by name what a class and its bases outside of this module define."""
    own = {}
    for base in checked_class.__mro__:
        if base.__module__ != __name__:
            own.update(vars(base))
    return own


def _refuse_reverse_relations(model, endpoint_class):
    """Raise ImproperlyConfigured if `fields` names what refers to the model."""
    names = endpoint_class.fields or ()
    for relation in model._meta.related_objects if names else ():
        for name in (relation.name, relation.get_accessor_name()):
            if name in names:
                message = f"{endpoint_class.__name__}.fields names {name}"
                advice = "a reverse relation: name a method that lists it."
                raise ImproperlyConfigured(f"{message}, {advice}")


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
        raise ImproperlyConfigured(f"{_label(served)} is of no installed app.")
    return [(label, served.__name__.lower()) for label in dict.fromkeys(labels)]


endpoint = _EndpointRegistry()


def register(*served) -> Callable[[type], type]:
    """Decorate an endpoint class to serve models or forms, as `endpoint.register`."""

    def decorate(endpoint_class):
        endpoint.register(served, endpoint_class)
        return endpoint_class

    return decorate


# --- The apps' endpoints.py -----------------------------------------------------------


class _Discovery:
    """The ad-hoc endpoints of all apps, found once, on first use.

    If an endpoints.py fails, the registries are put back as they were before: half of
    the endpoints would be wrong.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.is_started = False
        #: The module that failed, and the exception.
        self.error = None
        #: By (app label, name).
        self.functions = {}

    def run(self):
        """Import every app's endpoints.py; raise ImproperlyConfigured if one fails."""
        with self.lock:  # Other threads wait; an endpoints.py may get here again.
            if not self.is_started:
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
        except BaseException as error:
            self.error = (module_name, error)
            for registry, content in zip(registries, contents, strict=True):
                vars(registry).update(content)
            _make_plan.cache_clear()
            if not isinstance(error, Exception):
                raise

    def _describe_error(self):
        """Return a sentence about the endpoints.py that failed, with file and line."""
        module_name, error = self.error
        file, line = _find_failed_line(error)
        message = f"{type(error).__name__}: {getattr(error, 'msg', error)}"
        return f"{module_name} cannot be imported: {message} ({file}, line {line})."


def _copy_contents(registry):
    return {name: dict(content) for name, content in vars(registry).items()}


def _find_failed_line(error):
    """Return the file and the line of an endpoints.py at which an import failed."""
    if isinstance(error, SyntaxError):
        return error.filename, error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    for frame in frames:
        if frame.filename.endswith("endpoints.py"):
            return frame.filename, frame.lineno
    return frames[-1].filename, frames[-1].lineno


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
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name for name, value in vars(module).items() if _is_exposed(value, module)
        ]
    functions = {}
    for name in names:
        value = getattr(module, name)
        is_function = callable(value) and not isinstance(value, type)
        if is_function and not name.startswith("_"):
            functions[config.label, name] = _Function(value)
    return functions


def _is_exposed(value, module):
    """Return whether a value of a module is an endpoint: an instance of BaseEndpoint,
    or a function of a request that the module defines."""
    function = inspect.unwrap(value) if callable(value) else value
    if not inspect.isfunction(function):
        return isinstance(function, BaseEndpoint) and callable(function)
    return value.__module__ == module.__name__ and _takes_request(value)


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
    """Raise AJAXError 403 with a token to try again, unless the request has a token."""
    check = _CsrfCheck(dispatch)
    if "CSRF_COOKIE" not in request.META:
        check.process_request(request)
    reason = check.process_view(request, view, (), {})
    if not reason:
        return
    if reason.startswith(("Origin", "Referer")):
        raise AJAXError(403, reason, csrf=True)
    advice = _("Send the token, the cookie %(cookie)s or csrf of this, as %(header)s.")
    advice %= {"cookie": settings.CSRF_COOKIE_NAME, "header": _get_header_name()}
    raise AJAXError(403, f"{reason} {advice}", csrf=get_token(request))


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
        raise AJAXError(405, _("Send a POST request, its parameters in the body."))
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or len(length) > 18:
        raise AJAXError(400, _("The Content-Length is not a number."))
    # Some of Python's codecs are not for text, and some are very slow.
    if (request.encoding or "utf-8").lower() not in ("utf-8", "utf8"):
        raise AJAXError(400, _("Send UTF-8, as browsers do."))


def _resolve(
    app=None,
    name=None,
    model=None,
    pk=None,
    operation=None,
    tags=None,
    command=None,
    **mount,
):
    """Return the endpoint at a path, with its operation.

    `mount` is what the path of the mount captures; it is ignored. Raise AJAXError 404
    if there is no such endpoint or operation.
    """
    _autodiscover()
    function = _discovery.functions.get((app, name))
    if function is not None:
        return function
    served = endpoint._paths.get((FormEndpoint, app, name))
    if served is None:
        served = endpoint._paths.get((ModelEndpoint, app, name or model))
    if served is None:
        raise _missing(_("AJAX endpoint does not exist."), f"{app}/{name or model}")
    method = tags or operation or "create"
    resolved = endpoint._registry[served](app, served, method, pk, command)
    resolved._operation = resolved._find_operation()
    run = getattr(resolved, resolved._operation.method)
    if getattr(run, "csrf_exempt", False):
        resolved.csrf_exempt = True
    return resolved


def _missing(message, sent, names=None):
    """Return the AJAXError 404 for a name that is not there; in DEBUG with what is."""
    if not settings.DEBUG:
        return AJAXError(404, message)
    if names is None:
        names = {"/".join(pair) for pair in _discovery.functions}
        for _base, label, name in endpoint._paths:
            names.add(f"{label}/{name}")
    close = _find_close(sent.lower(), names, 0.75)
    if close:
        return AJAXError(404, message, hint=f"Did you mean {close}?")
    known = ", ".join(sorted(names)[:_MAX_EXPLAINED_KEYS])
    return AJAXError(404, message, hint=f"There is: {known or 'nothing'}.")


@csrf_exempt
@login_not_required
def dispatch(request, **segments):
    """Answer a request: resolve its path, check CSRF, authorize, read its body, run."""
    try:
        if "app" in segments:
            _check_request(request)
        resolved = _resolve(**segments)
        _check_csrf(request, resolved)
        resolved._authorize(request)
        _read_body(request)
        with contextlib.ExitStack() as stack:
            locks = not resolved._operation.reads
            _enter_atomic_requests(stack, resolved, locks)
            response = _success_response(resolved._run(request), request)
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
    is_client = name == "client.js"
    if not is_client and not _may_explore(request):
        raise Http404
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
    response = ConditionalGetMiddleware(lambda request: response)(request)
    return _keep_csrf_cookie(request, response)


def _may_explore(request):
    """Return whether the request's user may see the explorer."""
    if settings.DEBUG:
        return True
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.is_staff


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
    kind = _find_kind(typed_field)
    schema = {}
    if kind.types:
        schema["type"] = list(kind.types)
    if _takes_large_integers(typed_field):
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
    sent."""
    titles = {}
    for value, title in flatten_choices(field.choices):
        value = _to_plain(value)
        if kind.types == ("string",) and value is not None:
            value = str(value)  # The choices of a form's field may be numbers.
        titles[value] = str(title)
    titles.pop(None, None)
    if _may_be_empty(field):
        titles.setdefault("", "empty")
    else:
        titles.pop("", None)
    return [{"const": value, "title": title} for value, title in titles.items()]


def _holds_several(field):
    several = (forms.MultipleChoiceField, forms.ModelMultipleChoiceField)
    return getattr(field, "many_to_many", False) or isinstance(field, several)


def _allow_null(schema):
    """Add null to a schema. One without a type allows it already."""
    if "type" in schema and "null" not in schema["type"]:
        schema["type"].append("null")
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


def _describe_call(path, doc, who, shape, question=""):
    """Return the path of a call and its OpenAPI path item.

    The first line of `doc` is the summary.
    """
    summary, _line, description = doc.partition("\n")
    group = path.rpartition("/")[0]
    notes = {"who": who}
    if question:
        notes["asks"] = question
    call = {
        "operationId": path.replace("/", ".").replace("{pk}", "pk"),
        "tags": [group.partition("/{pk}")[0]],
        "summary": summary,
        "description": description.strip(),
        "security": _describe_security(who),
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


def _describe_security(who):
    """Return the alternatives of security schemes that a call takes, the usual first:
    a CSRF token, with or without a session."""
    names = ["csrf"]
    if not settings.CSRF_USE_SESSIONS:
        names.append("csrfCookie")
    schemes = dict.fromkeys(names, [])
    if who == "Everybody.":
        return [schemes]
    if who.startswith("Access"):
        # Visitors may be let in.
        return [{**schemes, "session": []}, schemes]
    return [{**schemes, "session": []}]


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
        if parameter.get("format") == "binary":
            form_type = multipart_type
    content = {_JSON_TYPE: {"schema": schema}, form_type: {"schema": schema}}
    return {"required": bool(shape.required), "content": content}


def _describe_who(served_endpoint, hook=None, permission=""):
    """Return a sentence that says who may call, and which hook decides."""
    endpoint_class = type(served_endpoint)
    name = endpoint_class.__name__
    has_hook = hook is not None and _overrides(endpoint_class, hook)
    if hook == "can_list" and not has_hook:
        return f"Nobody, until {name}.can_list allows."
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
    return f"{who}."


def _find_authentication(endpoint_class):
    """Return the name of what replaces the default authentication, or None."""
    if endpoint_class.authenticate is not _ServedEndpoint.authenticate:
        return f"{endpoint_class.__name__}.authenticate"
    if hasattr(settings, "AJAX_AUTHENTICATION"):
        return "AJAX_AUTHENTICATION"
    return None


def _describe_function(path, function):
    needs_login = getattr(function.view, "wants_login", function.wants_login)
    who = "Logged-in users." if needs_login else "Everybody."
    doc = _find_doc(function.view, f"Call `{path.rpartition('/')[2]}`.")
    return _describe_call(path, doc, who, _Shape(parameters={}))


def _find_doc(described, default=""):
    """Return the docstring of something of the project's, or else a default."""
    doc = getattr(described, "__doc__", None)
    if not doc or getattr(described, "__module__", None) == __name__:
        return default
    return inspect.cleandoc(doc)


def _describe_form(path, form_endpoint):
    parameters = {}
    required = []
    for name, field in form_endpoint.model.base_fields.items():
        parameters[name] = _describe_field(field, is_sent=True)
        if field.required:
            required.append(name)
    who = _describe_who(form_endpoint)
    shape = _Shape(parameters, required)
    summary = f"Submit `{form_endpoint.model.__name__}`."
    docs = [_find_doc(form_endpoint.model), _find_doc(type(form_endpoint))]
    doc = "\n\n".join(filter(None, docs)) or summary
    return _describe_call(path, doc, who, shape)


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
        if not operation.is_custom:
            summary += f"\n{inspect.getdoc(getattr(ModelEndpoint, name))}"
        doc = _find_doc(method, summary)
        shape = shapes.get(name, _Shape(parameters={}))
        for call_path, hook in _find_call_paths(path, name, operation):
            who = _describe_who(model_endpoint, hook, operation.permission)
            yield _describe_call(call_path, doc, who, shape, operation.question)


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
    written = record
    if plan.may_hide:
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
        "update": _Shape(parameters, (), {"data": written}, beside),
        "delete": _Shape(reply={"data": only_pk}),
    }


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


def _refer_to_schema(model):
    return {"$ref": f"#/components/schemas/{model._meta.label_lower}"}


def _describe_commands(path, model_endpoint):
    """Yield the calls of the tags commands that an endpoint offers."""
    plan = model_endpoint._plan
    for manager_name in plan.managers:
        if not model_endpoint._offers(manager_name):
            continue
        is_writable = manager_name in plan.writable
        for command, operation in _COMMANDS.items():
            if operation.reads or is_writable:
                call_path = f"{path}/{{pk}}/{manager_name}/{command}"
                yield _describe_command(call_path, model_endpoint, command, operation)


def _describe_command(call_path, model_endpoint, command, operation):
    who = _describe_who(model_endpoint, operation.hook, operation.permission)
    shape = _make_command_shape(command, model_endpoint.model)
    summary = _fill_summary(operation, model_endpoint.model)
    return _describe_call(call_path, summary, who, shape, operation.question)


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
    """Return by label the schema of each model's records, wherever they are shown."""
    plans = {}
    for model, endpoint_class in endpoint._registry.items():
        if issubclass(endpoint_class, ModelEndpoint):
            _collect_plans(endpoint_class._for_model(model, request)._plan, plans)
    schemas = {}
    for label, same in plans.items():
        schemas[label] = same[0].describe(is_written=True)
        for plan in same[1:]:
            _add_expansions(schemas[label], plan)
    return schemas


def _collect_plans(plan, plans):
    """Add a plan, and the plans of what it expands, to the lists of plans by label."""
    plans.setdefault(plan.model._meta.label_lower, []).append(plan)
    for part in plan.parts:
        if isinstance(part, _ExpandedKey):
            _collect_plans(part.related, plans)


def _add_expansions(schema, plan):
    """Add to the schema of a model's records what is expanded only elsewhere."""
    properties = plan.describe(is_written=True).get("properties", {})
    for name, described in properties.items():
        if "anyOf" in described:
            schema["properties"][name] = described


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
            "description": "By key; __all__ has those of the record as a whole.",
        },
        "login_url": {**_TEXT, "description": "Where logging in would help."},
        "csrf": {
            "type": ["string", "boolean"],
            "description": "A fresh token to try again with; true if none would help.",
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
    user = getattr(request, "user", None)
    if user and user.is_authenticated:
        return f"You are {user}."
    return "You are not logged in."


def _describe_api(request):
    """Return the OpenAPI 3.1 description of all that is served.

    It comes from the same tables and plans that answer the calls.
    """
    _autodiscover()
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
        "paths": dict(_describe_calls(request)),
        "components": {
            "schemas": _describe_records(request),
            "responses": {"failure": _describe_failure()},
            "securitySchemes": _describe_security_schemes(),
        },
        "x-ajax": {"you": _describe_visitor(request)},
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


# Each check yields the number of its message, the text, and a hint.


def _check_copies():
    """Find a second copy of this file under another import name (E004).

    What is registered with one copy is not served by the other.
    """
    for name, module in sorted(sys.modules.items()):
        model_endpoint_class = getattr(module, "ModelEndpoint", None)
        defined_in = getattr(model_endpoint_class, "__module__", None)
        # A module that only imports names from this one is no copy.
        is_copy = defined_in == name and hasattr(module, "AjaxConfig")
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
        hint = "Every request is answered with status 500 until this is corrected."
        yield "E001", str(error), hint


def _check_exposure():
    """Find callables in an endpoints.py that are not endpoints (W004).

    Their author may believe that pages can call them.
    """
    hint = (
        "To expose a function, name its first parameter request, and use "
        "functools.wraps in its decorators. To expose an object, extend BaseEndpoint. "
        "To hide it, begin its name with an underscore, or list the endpoints in "
        "__all__."
    )
    for module in _endpoints_modules():
        if hasattr(module, "__all__"):
            continue
        for name, value in vars(module).items():
            is_private = name.startswith("_")
            if not is_private and _looks_exposed(value, module):
                yield "W004", f"{module.__name__}.{name} is not exposed.", hint


def _looks_exposed(value, module):
    """Whether a module's own function or object could be an endpoint, but is none."""
    if getattr(value, "__module__", None) != module.__name__:
        return False
    if isinstance(value, type) or not _takes_one(value):
        return False
    return not _is_exposed(value, module)


class _NameRules:
    """What the names in the class attributes of an endpoint have to be."""

    def __init__(self, model, endpoint_class):
        self.model = model
        self.endpoint_class = endpoint_class
        self.field_names = {*_model_fields(model), *_pk_names(model)}

    def accepts(self, attribute, name):
        """Whether a name may stand in a class attribute."""
        if not isinstance(name, str):
            return attribute == "ordering"  # It may hold expressions.
        is_valid = _NAME_RULES[attribute]
        return is_valid(self, name)

    def suggest(self, name):
        """Return a hint about a name that is not accepted."""
        known_names = [*self.field_names, *_operations(self.endpoint_class)]
        close_name = _find_close(str(name), known_names)
        if close_name and close_name != name:
            return f"Did you mean {close_name}?"
        return "Correct the name, or remove it."

    def is_extra(self, name):
        """Whether a name is a property's or method's of the endpoint or the model."""
        return _defines(self.endpoint_class, name) or hasattr(self.model, name)

    def is_lookup(self, name):
        """Whether filter() takes a name. The database is not asked."""
        try:
            self.model._base_manager.filter((name, None))
        except core_exceptions.FieldError:
            return False
        except (TypeError, ValueError, ValidationError):
            pass  # The lookup exists, but does not take None.
        return bool(name)

    def is_shown(self, name):
        return name in self.field_names or self.is_extra(name)

    def is_expandable(self, name):
        field, lookups = _end_of_path(self.model, name)
        if isinstance(field, models.ForeignKey) and not lookups:
            return True
        return name not in self.field_names and self.is_extra(name)

    def is_order(self, name):
        return name in ("?", "-?") or self.is_lookup(name.lstrip("-"))

    def is_sortable(self, name):
        from django.contrib.admin.utils import lookup_spawns_duplicates

        is_repeated = lookup_spawns_duplicates(self.model._meta, name)
        return self.is_lookup(name) and not is_repeated

    def is_searchable(self, name):
        return self.is_lookup(name.lstrip("^=@"))

    def is_filter(self, name):
        field, lookups = _end_of_path(self.model, name)
        return self.is_lookup(name) and _is_offered(field, lookups)

    def is_operation(self, name):
        field = _model_fields(self.model).get(name)
        if field is not None and _is_tags_manager(field):
            return True
        return name in _operations(self.endpoint_class)


#: The rule for the names in each class attribute.
_NAME_RULES = {
    "fields": _NameRules.is_shown,
    "exclude": _NameRules.is_shown,
    "readonly_fields": _NameRules.is_shown,
    "immutable_fields": _NameRules.is_shown,
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
        if isinstance(names, str):
            message = f"{place} is the text {names!r} instead of a list of names."
            yield "E002", message, f"Write {[names]}."
            continue
        for name in names:
            if not rules.accepts(attribute, name):
                message = f"{place} names {name!r}, which {model._meta.label} does not"
                yield "E002", f"{message} have or offer.", rules.suggest(name)


def _check_hidden_create(model, endpoint_class):
    """Find a function or form at the path where a model's records are created (E003).

    Clients that mean to create a record would call it.
    """
    operations = endpoint_class.operations
    if operations and "create" not in operations:
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
    """Find models that a foreign key shows, though nothing says what they show (W001).

    Their authors may not know that all of their fields can be read.
    """
    plan = _Plan(model, endpoint_class, True)
    for related_model in dict.fromkeys(plan.expansions.models):
        has_endpoint_class = endpoint.find(related_model) is not ModelEndpoint
        is_described = has_endpoint_class or encoder.find(related_model)
        # By default, user models show only the pk and the username.
        if not is_described and not _is_user_model(related_model):
            message = (
                f"{endpoint_class.__name__} shows all fields of "
                f"{_label(related_model)}. No endpoint class or encoder says whether "
                "it may."
            )
            hint = (
                f"Register an endpoint class for {related_model.__name__} (with "
                'fields = "__all__" to show all), or an encoder; or leave it out of '
                "`expand`."
            )
            yield "W001", message, hint


def _may_hide(model):
    """Return whether the endpoint of a model may hide records from some users."""
    endpoint_class = endpoint.find(model)
    if _overrides(endpoint_class, "authenticate"):
        return True
    return _is_narrowed(model, endpoint_class) or endpoint.is_closed(model)


def _check_sorting(model, endpoint_class):
    """Find orders through a relation that hides records from some users (W005).

    The order tells about values that the user cannot see.
    """
    for path_name in endpoint_class.sortable_by:
        names = path_name.split("__")
        for length in range(1, len(names)):
            field, lookups = _end_of_path(model, "__".join(names[:length]))
            related = getattr(field, "related_model", None)
            if lookups or related is None or not _may_hide(related):
                continue
            message = (
                f"{endpoint_class.__name__}.sortable_by names {path_name!r}, but the "
                f"endpoint of {_label(related)} hides records from some users. The "
                "order tells them about values that they cannot see."
            )
            yield "W005", message, f"Leave {path_name!r} out of sortable_by."


def _check_visitors(model, endpoint_class):
    """Find expansions that visitors of an open endpoint do not see (W006).

    A related record is shown whole only to users whom its own endpoint lets in.
    """
    if not _overrides(endpoint_class, "authenticate"):
        return
    plan = _Plan(model, endpoint_class, True)
    for related in dict.fromkeys(plan.expansions.models):
        has_only_encoder = not endpoint.has(related) and encoder.find(related)
        if has_only_encoder or _overrides(endpoint.find(related), "authenticate"):
            continue
        message = (
            f"{endpoint_class.__name__} overrides authenticate, but visitors see only "
            f"the pks of {_label(related)}: its own endpoint wants a login."
        )
        hint = (
            f"Override authenticate in the endpoint of {related.__name__} too, or "
            f"leave it out of `expand` of {endpoint_class.__name__}."
        )
        yield "W006", message, hint


def _check_totals(model, endpoint_class):
    """Find lists that count the records which can_get refuses (W003).

    By searching and filtering, clients learn about these records from `total`.
    """
    operations = endpoint_class.operations
    if operations and "list" not in operations:
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


def _check_endpoint(model, endpoint_class):
    """Run the checks of one model's endpoint class."""
    name_errors = list(_check_names(model, endpoint_class))
    yield from name_errors
    if not name_errors:
        # The check of expansions makes a plan, for which all names have to exist.
        yield from _check_hidden_create(model, endpoint_class)
        yield from _check_totals(model, endpoint_class)
        yield from _check_sorting(model, endpoint_class)
        yield from _check_expansions(model, endpoint_class)
        yield from _check_visitors(model, endpoint_class)


def _make_messages(results, endpoint_class=None):
    """Return what a check yields as Django's messages about an endpoint class."""
    messages = []
    for number, text, hint in results:
        message_class = checks.Error if number.startswith("E") else checks.Warning
        messages.append(message_class(text, hint, endpoint_class, f"ajax.{number}"))
    return messages


def _run_checks(app_configs=None, **kwargs):
    """Return the messages of all checks, for Django's system check framework."""
    messages = _make_messages(_check_copies())
    import_errors = _make_messages(_check_imports())
    if import_errors:
        return messages + import_errors
    messages += _make_messages(_check_exposure())
    for model, endpoint_class in endpoint._registry.items():
        if issubclass(endpoint_class, ModelEndpoint):
            results = _check_endpoint(model, endpoint_class)
            messages += _make_messages(results, endpoint_class)
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
    "demo/endpoints.py": """\
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
""",
}


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
    """Create the demo's user, a category and two posts that share a tag."""
    user = apps.get_model("auth.User").objects.create(username="demo")
    category = apps.get_model("demo.Category").objects.create(title="News")
    _create_demo_post(category, user, "Ten minutes of work", "ajax")
    _create_demo_post(category, user, "No tears", "json")


def _create_demo_post(category, user, title, tag):
    posts = apps.get_model("demo.Post").objects
    post = posts.create(category=category, author=user, title=title)
    post.liked_by.add(user)
    if hasattr(post, "tags"):
        post.tags.add("django", tag)


def _demo_settings(folder):
    """Return the demo's settings, with its database in a folder."""
    demo_urls = types.ModuleType("demo_urls")
    to_explorer = RedirectView.as_view(pattern_name="ajax:explorer")
    demo_urls.urlpatterns = [path("", to_explorer), path("ajax/", include(__name__))]
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

_CLIENT = r"""/** Call the endpoints of ajax.py from a page.
 *
 *     import ajax from "/ajax/client.js";
 *     const post = await ajax("blog/post/1/update", {title: "Hello again"});
 *
 * The data is an object, which may hold files, a FormData, a URLSearchParams, a <form>, or the event
 * of its submission. The third argument may hold a signal. A call that fails throws an AJAXError.
 */
const COOKIE_NAME = "csrftoken";
const HEADER_NAME = "X-CSRFToken";
const INPUT_NAME = "csrfmiddlewaretoken";
const TIME_ZONE = "UTC";

/** The token that came with a refusal. A login changes the token. */
let freshToken;

/** The number of texts that were put behind inputs. */
let errorCount = 0;

/** Call an endpoint and return the data of its reply. */
export default async function ajax(path, data, options) {
  const reply = await ajax.reply(path, data, options);
  return reply.data;
}

/** Call an endpoint and return the whole reply. A list has `total` and the like beside `data`. */
ajax.reply = async (path, data, options) => {
  const response = await ajax.fetch(path, data, options);
  const reply = await readJSON(path, response, options);
  if (reply?.success === true && "data" in reply) return reply;
  const message = reply?.success === false && reply.data?.message;
  if (typeof message === "string") throw new AJAXError(message, {path, response, reply});
  const type = response.headers.get("Content-Type") ?? "no content type";
  const answer = `${response.url} answered ${response.status} with ${type}`;
  throw new AJAXError(`${answer}, which is not a reply of ajax.py.`, {path, response});
};

/** Call an endpoint and return its Response, which may hold HTML or a file. */
ajax.fetch = async (path, data = {}, options) => {
  const body = encode(data);
  const response = await send(path, body, options);
  if (response.status !== 403) return response;
  const reply = await readJSON(path, response, options);
  if (typeof reply?.csrf !== "string") return response;
  freshToken = reply.csrf;
  return send(path, body, options);
};

/** Put errors behind those inputs of a form that can be seen. Return the text of all others. */
ajax.showErrors = (form, error) => {
  form.dispatchEvent(new Event("ajax-clear"));
  const isNamed = isObject(error.errors) && !Array.isArray(error.errors);
  const errors = isNamed ? error.errors : {__all__: error.errors};
  const others = [];
  const wrongInputs = Object.entries(errors).flatMap(([name, messages]) => {
    const text = joinTexts(messages);
    const inputs = getInputs(form, name).filter(isVisible);
    if (inputs.length > 0) showError(form, inputs, text);
    else if (text) others.push(name === "__all__" ? text : `${name}: ${text}`);
    return inputs;
  });
  const firstInput = getInputs(form).find(input => wrongInputs.includes(input));
  firstInput?.focus();
  return others.join("\n") || (firstInput ? "" : error.message);
};

/** Fill a form's inputs from a record. Return the names of the values that they cannot show. */
ajax.fill = (form, record) => {
  const names = Object.keys(record);
  return names.filter(name => !fillInputs(getInputs(form, name), record[name]));
};

/** A failed call. Its code is the HTTP status, or 0 without a response. */
export class AJAXError extends Error {
  constructor(message, {path, response, reply, cause} = {}) {
    super(message);
    const {errors, hint, login_url: loginURL} = reply ?? {};
    const loginUrl = loginURL && makeLoginURL(loginURL);
    const code = response?.status ?? 0;
    Object.assign(this, {name: "AJAXError", path, code, errors, hint, loginUrl});
    Object.assign(this, {reply, response, cause});
  }
}

/** Return the URL of the login page, which leads back to this page. */
function makeLoginURL(loginURL) {
  const url = new URL(loginURL, location);
  const isHere = url.origin === location.origin;
  url.searchParams.set("next", isHere ? location.href.slice(url.origin.length) : location.href);
  return url.href;
}

/** Return the URL of a path. */
function makeURL(path) {
  const segments = path.split("/");
  if (segments.some(segment => ["", ".", ".."].includes(segment))) {
    throw new TypeError(`The path "${path}" has a segment that is empty, "." or "..".`);
  }
  return new URL(`${segments.map(encodeURIComponent).join("/")}.json`, import.meta.url);
}

/** Send a body with the CSRF token. */
async function send(path, body, {signal} = {}) {
  const headers = {[HEADER_NAME]: findToken()};
  if (typeof body === "string") headers["Content-Type"] = "application/json";
  const call = fetch(makeURL(path), {method: "POST", headers, body, signal});
  return call.catch(cause => failToConnect(path, signal, cause));
}

/** Return what a response holds as JSON, or undefined. The response itself stays unread. */
async function readJSON(path, response, {signal} = {}) {
  return response.clone().json().catch(cause => {
    if (!(cause instanceof SyntaxError)) failToConnect(path, signal, cause);
  });
}

/** Throw the error of a call without a whole response. An aborted call may have any cause. */
function failToConnect(path, signal, cause) {
  const message = signal?.aborted ? "The call was aborted." : "The server cannot be reached.";
  throw new AJAXError(message, {path, cause});
}

/** Return the CSRF token: a fresh one, else the cookie's, else that of the page's input. */
function findToken() {
  if (freshToken !== undefined) return freshToken;
  const start = `${COOKIE_NAME}=`;
  // Of several cookies with this name, Django takes the last.
  const cookies = document.cookie.split("; ").reverse();
  const cookie = cookies.find(cookie => cookie.startsWith(start));
  const input = document.querySelector(`[name=${INPUT_NAME}]`);
  return cookie?.slice(start.length) ?? input?.value ?? "";
}

/** Turn data into the body of a request. */
function encode(data) {
  if (data instanceof HTMLFormElement) return encode(readForm(data));
  if (data instanceof Event && data.type === "submit") {
    return encode(readForm(data.target, data.submitter));
  }
  const isForm = data instanceof FormData || data instanceof URLSearchParams;
  if (!isForm) return encodeJSON(data);
  const body = data instanceof FormData ? new FormData() : new URLSearchParams();
  for (const [name, value] of data) body.append(name, value);
  body.delete(INPUT_NAME); // It may be older than the cookie.
  return body;
}

/** Return the inputs of a form, or those for a key: the name of a list may end with []. */
function getInputs(form, key) {
  // An input may be called "elements".
  const elements = Array.from(Reflect.get(HTMLFormElement.prototype, "elements", form));
  const inputs = elements.filter(({type}) => !/^(button|fieldset|output|reset|submit)$/.test(type));
  return inputs.filter(({name}) => key === undefined || name === key || name === `${key}[]`);
}

/** Read a form, with what browsers leave out: unticked boxes and lists without a choice. */
function readForm(form, button) {
  const body = new FormData(form);
  const inputs = getInputs(form).filter(input => !input.matches(":disabled"));
  for (const {name, type, value} of inputs) {
    const isLeftOut = name && !body.has(name);
    if (!isLeftOut || !["checkbox", "select-multiple"].includes(type)) continue;
    const isAlone = inputs.filter(input => input.name === name).length === 1;
    const isBoolean = type === "checkbox" && isAlone && /^(on|true)$/i.test(value);
    body.append(name, isBoolean ? "false" : "");
  }
  if (button?.name) body.append(button.name, button.value);
  return body;
}

/** Turn data into JSON or, if it holds files, into a form with all else as one part of JSON. */
function encodeJSON(data) {
  const form = new FormData();
  const text = JSON.stringify(data, function (name, value) {
    // `this` holds the value. Only an object's own values may be files.
    const isOwn = this === data && !Array.isArray(data);
    const list = isOwn && value instanceof FileList ? Array.from(value) : value;
    return isOwn && addFiles(form, name, list) ? undefined : checkValue(name, list);
  });
  if (text === undefined) throw new TypeError(`JSON cannot hold this ${typeof data}.`);
  if (Array.from(form).length === 0) return text;
  form.append("application/json", text);
  return form;
}

/** Add a file or a list of files to a form. Return false for any other value. */
function addFiles(form, name, value) {
  const isList = Array.isArray(value) && value.length > 0;
  const files = isList ? value : [value];
  if (!files.every(file => file instanceof Blob)) return false;
  for (const file of files) form.append(isList ? `${name}[]` : name, file);
  return true;
}

/** Return a value that JSON can hold; it would turn a Map, a file or an element into {}. */
function checkValue(name, value) {
  if (!isObject(value) || Array.isArray(value)) return value;
  const prototype = Object.getPrototypeOf(value);
  const isPlain = prototype === null || Object.getPrototypeOf(prototype) === null;
  const isOfPage = [Blob, Event, FileList, Node].some(kind => value instanceof kind);
  if (!isOfPage && (isPlain || Object.keys(value).length > 0)) return value;
  const place = name && ` (in "${name}")`;
  throw new TypeError(`JSON cannot hold this ${value.constructor?.name}${place}.`);
}

/** Return whether a value is an object or a list. */
function isObject(value) {
  return typeof value === "object" && value !== null;
}

/** Join the texts of an error, which may have any shape. */
function joinTexts(value) {
  return isObject(value) ? Object.values(value).map(joinTexts).join(" ") : String(value ?? "");
}

/** Return whether an input can be seen. In a closed <details> it has a place, too. */
function isVisible(input) {
  const hasPlace = input.getClientRects().length > 0 && !input.closest("details:not([open])");
  return hasPlace && getComputedStyle(input).visibility === "visible";
}

/** Put a text behind inputs, until one of them changes or the form is reset. */
function showError(form, inputs, textContent) {
  const element = document.createElement("span");
  const id = `ajax-error-${++errorCount}`;
  Object.assign(element, {id, textContent, className: "ajax-error"});
  element.setAttribute("role", "alert");
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
  for (const input of inputs) input.addEventListener("input", clear);
  for (const input of inputs) input.addEventListener("change", clear);
}

/** Fill the inputs of one name with a value. Return whether they show it. */
function fillInputs(inputs, value) {
  const boxes = inputs.filter(({type}) => type === "checkbox" || type === "radio");
  const selects = inputs.filter(({options}) => options);
  const choices = [...boxes, ...selects.flatMap(({options}) => Array.from(options))];
  if (choices.length === 0) return inputs.map(input => fillText(input, value)).every(Boolean);
  const isBoolean = typeof value === "boolean";
  if (isBoolean && choices.length === 1 && boxes[0]?.type === "checkbox") {
    boxes[0].checked = value;
    return true;
  }
  const texts = findTagNames(value) ?? [value ?? ""].flat().map(toText);
  const read = choice => isBoolean ? choice.value.toLowerCase() : choice.value;
  for (const select of selects) select.selectedIndex = -1;
  for (const choice of choices) {
    const isChosen = texts.includes(read(choice));
    if (boxes.includes(choice)) choice.checked = isChosen;
    else if (isChosen) choice.selected = true;
  }
  const shown = choices.filter(({checked, selected}) => checked || selected).map(read);
  return value === null || texts.every(text => shown.includes(text));
}

/** Fill an input with a text. Return whether it shows the value. */
function fillText(input, value) {
  const type = input.type ?? "";
  if (type === "file") return value === null;
  const tags = findTagNames(value);
  let text = toText(value ?? "");
  if (type === "textarea" && isObject(value)) text = JSON.stringify(value);
  if (tags && !(type === "textarea" && tags.length === 0)) text = joinTags(tags);
  if (!/^(date|time)/.test(type)) {
    input.value = text;
  } else {
    text = toServerTime(text);
    // Such inputs hold milliseconds at most, and those for a date no time.
    input.value = type === "date" ? text.slice(0, 10) : text.replace(/(\.\d{3})\d+$/, "$1");
  }
  if (input.validity?.stepMismatch) input.step = "any";
  if (type.includes("time")) return !text === !input.value && !/\.\d{3}\d*[1-9]/.test(text);
  return input.value === text.replace(/\r\n?/g, "\n");
}

/** Return a value as a form sends it: a record as its pk. */
function toText(value) {
  return isObject(value) ? String(value.pk ?? JSON.stringify(value)) : String(value);
}

/** Return the names of a list of tags, or undefined for any other value. */
function findTagNames(value) {
  const isTag = item => isObject(item) && Object.keys(item).sort().join() === "name,pk,slug";
  return Array.isArray(value) && value.every(isTag) ? value.map(tag => tag.name) : undefined;
}

/** Join the names of tags as taggit reads them; names with quotes only JSON can hold. */
function joinTags(names) {
  if (names.some(name => name.includes('"'))) return JSON.stringify(names);
  return names.map(name => /[ ,]/.test(name) ? `"${name}"` : name).join(", ");
}

/** Return a date-time as the server's clock shows it, and any other text as it is. */
function toServerTime(text) {
  const match = /^(.+T[\d:]+)(\.\d+)?(Z|[+-][\d:]+)$/.exec(text);
  if (!match) return text;
  const [, time, fraction = "", offset] = match;
  const options = {timeZone: TIME_ZONE};
  return new Date(time + offset).toLocaleString("sv", options).replace(" ", "T") + fraction;
}
"""  # noqa: E501

_EXPLORER = r"""/** The explorer: show the calls that openapi.json describes, and call them by client.js. */
import ajax, {AJAXError} from "./client.js";

const api = await loadDescription();
const calls = readCalls();
const intro = getElement("#intro");

/** The last pk that was typed, by the group of its call. */
const lastPks = new Map();

// --- Helpers ---

/** Return the first element that a selector matches. */
function getElement(selector) {
  return document.querySelector(selector);
}

/** Make an element. Attributes that are false and children that are empty are left out. */
function makeElement(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value);
  }
  for (const child of children) {
    // A text stays text: it is never read as HTML.
    if (child) element.append(child);
  }
  return element;
}

// --- Calls ---

/** Load openapi.json. */
async function loadDescription() {
  const response = await fetch(new URL("openapi.json", import.meta.url));
  return response.json();
}

/** Return all calls of openapi.json, in its order. */
function readCalls() {
  return Object.entries(api.paths ?? {}).map(([path, item]) => makeCall(path, item));
}

/** Describe the call of one path: its operation, name, pattern, group, prefix and pk. */
function makeCall(path, {post, parameters}) {
  const name = path.slice(1).replace(/\.json$/, "");
  const segments = name.replace("{pk}", "([^/]+)");
  return {
    ...post,
    ...getExtras(post),
    name,
    pattern: new RegExp(`(?:^|/)${segments}(?:\\.json)?$`),
    group: post.tags[0],
    prefix: name.replace(/[^/]+$/, ""),
    pkSchema: parameters?.[0].schema,
  };
}

/** Return what ajax.py adds to a description of OpenAPI. */
function getExtras(description) {
  return description["x-ajax"] ?? {};
}

/** Return the call that a path or URL names, and the pk in it. */
function findCall(text) {
  let call;
  let match;
  for (const candidate of calls) {
    const candidateMatch = candidate.pattern.exec(text.trim());
    // The match that starts first is the longest.
    if (candidateMatch && (!match || candidateMatch.index < match.index)) {
      call = candidate;
      match = candidateMatch;
    }
  }
  return {call, pk: decodePk(match?.[1] ?? "")};
}

/** Decode the pk in a path. The placeholder {pk} means that there is none. */
function decodePk(pk) {
  if (pk === "{pk}") return "";
  try {
    return decodeURIComponent(pk);
  } catch {
    return pk;
  }
}

// --- Fields ---

/** Return the types of a schema; a schema without a type takes any JSON. */
function getTypes(schema) {
  return [schema.type ?? "JSON"].flat();
}

/** Return whether a schema takes null. */
function isNullable(schema) {
  return getTypes(schema).slice(1).includes("null");
}

/** Describe in words what a schema takes. */
function describeSchema(schema) {
  let description = describeType(schema);
  if (isNullable(schema)) description += " or null";
  if (schema.maxLength) description += `, at most ${schema.maxLength}`;
  return description;
}

const FORMATS = {binary: "file", byte: "base64", "time-local": "time"};
const TYPES = {string: "text", integer: "whole number", boolean: "true or false"};

/** Describe the type of a schema in a few words. */
function describeType(schema) {
  const {format, items} = schema;
  const [type] = getTypes(schema);
  const model = getExtras(schema).pk_of;
  if (model) return `pk of ${model}`;
  if (type === "array") return `list of ${describeSchema(items)}`;
  if (format) return FORMATS[format] ?? format;
  return TYPES[type] ?? type;
}

/** Make a field: its name and type, its box, help, and a place for its errors. */
function makeField(call, name, schema, isRequired) {
  const id = `${call.name}:${name}`;
  const description = `${id}-type ${id}-help`;
  const box = makeBox(schema, {id, "aria-describedby": description, autocomplete: "off"});
  const errors = makeElement("span", {class: "bad"});
  const label = makeElement("label", {for: id}, name);
  const type = makeElement("small", {id: `${id}-type`}, describeSchema(schema));
  if (isRequired) type.append(", required");
  const help = makeElement("small", {id: `${id}-help`}, errors, schema.description);
  const row = makeElement(
    "div",
    {class: "field"},
    makeElement("div", {}, label, type),
    makeElement("div", {}, box, help),
  );
  return {name, schema, box, errors, row};
}

const INPUT_TYPES = {
  binary: "file",
  date: "date",
  "date-time": "datetime-local",
  "time-local": "time",
};

/** Make the box in which a value is typed or chosen. */
function makeBox(schema, attributes) {
  const [type] = getTypes(schema);
  if (getExtras(schema).multiline || type === "JSON") return makeElement("textarea", attributes);
  if (type === "boolean") return makeSelect(getBooleanChoices(schema), attributes);
  if (schema.oneOf) return makeSelect(schema.oneOf, attributes);
  return makeElement("input", {...attributes, type: INPUT_TYPES[schema.format] ?? "text"});
}

/** Return the choices of a boolean. */
function getBooleanChoices(schema) {
  const choices = [{const: true}, {const: false}];
  if (isNullable(schema)) choices.push({const: null});
  return choices;
}

/** Make a select whose options hold their values as JSON. */
function makeSelect(choices, attributes) {
  const select = makeElement("select", attributes);
  select.append(makeElement("option", {value: ""}, "not sent"));
  for (const choice of choices) {
    const title = choice.title ?? String(choice.const);
    select.append(makeElement("option", {value: JSON.stringify(choice.const)}, title));
  }
  return select;
}

/** Return the values of all fields that have one. Mark a box whose text cannot be read. */
function readFields(fields) {
  const data = {};
  for (const field of fields) {
    field.box.setCustomValidity("");
    if (!field.box.value) continue;
    try {
      data[field.name] = readBox(field);
    } catch (error) {
      field.box.setCustomValidity(`This is not valid JSON. ${error.message}`);
    }
  }
  return fields[0]?.isBody ? data.body : data;
}

/** Return the value of a box: the file, the choice, or the text as its schema reads it. */
function readBox({box, schema}) {
  if (box.files?.length) return box.files[0];
  if (box.options) return JSON.parse(box.value);
  return readText(box.value, schema);
}

/** Return the value that a text stands for. */
function readText(text, schema) {
  const [type] = getTypes(schema);
  if (text === "null" && isNullable(schema)) return null;
  if (type === "string") return text === '""' ? "" : text;
  if (type === "integer" || type === "number") return readNumber(text);
  if (type === "array" && !text.startsWith("[")) {
    return text.split(",").map(item => readText(item.trim(), schema.items));
  }
  return JSON.parse(text);
}

/** Read a number. Return the text itself if it is none, or would lose digits. */
function readNumber(text) {
  const number = Number(text);
  return String(number) === text ? number : text;
}

/** Show the errors of a reply beside their fields; return the text of all others. */
function showErrors(error, fields) {
  const isNamed = isObject(error.errors) && !Array.isArray(error.errors);
  const errors = isNamed ? error.errors : {__all__: error.errors ?? []};
  const others = new Map(Object.entries(errors));
  for (const field of fields) {
    field.errors.textContent = joinTexts(others.get(field.name) ?? []);
    field.box.setAttribute("aria-invalid", others.has(field.name));
    others.delete(field.name);
  }
  const lines = [error.message, error.hint];
  for (const [name, messages] of others) {
    const text = joinTexts(messages);
    if (text) lines.push(`${name}: ${text}`);
  }
  return lines.filter(line => line).join("\n");
}

/** Join the texts of an error, which a project may give any shape. */
function joinTexts(value) {
  if (isObject(value)) return Object.values(value).map(joinTexts).join(" ");
  return String(value);
}

// --- The same call as code ---

/** Write a call as a line of JavaScript. */
function writeJavaScript(call, path, data) {
  const name = call.name.endsWith("/list") ? "ajax.reply" : "ajax";
  const values = [JSON.stringify(path)];
  const literal = data === undefined ? "{}" : writeLiteral(data);
  if (literal !== "{}") values.push(literal);
  return `await ${name}(${values.join(", ")});`;
}

/** Write a value as JavaScript. Files are written as the file of an input. */
function writeLiteral(value) {
  if (value instanceof File) return "input.files[0]";
  if (Array.isArray(value)) return `[${value.map(writeLiteral).join(", ")}]`;
  if (!isObject(value)) return JSON.stringify(value);
  const members = Object.entries(value).map(([name, member]) => {
    const key = /^[a-z_$][\w$]*$/i.test(name) ? name : JSON.stringify(name);
    return `${key}: ${writeLiteral(member)}`;
  });
  return `{${members.join(", ")}}`;
}

/** Return whether a value is an object or a list. */
function isObject(value) {
  return typeof value === "object" && value !== null;
}

/** Write a call as a line for curl. */
function writeCurl(call, path, data = {}) {
  const {csrf, csrfCookie} = api.components.securitySchemes;
  // Django accepts any token that equals the cookie.
  const token = csrfCookie ? "0".repeat(32) : getElement("[name=csrfmiddlewaretoken]").value;
  const url = new URL(path.split("/").map(encodeURIComponent).join("/"), import.meta.url);
  const lines = [
    `curl ${quote(`${url}.json`)}`,
    ...writeCurlData(data),
    `-H '${csrf.name}: ${token}'`,
    `-b "${writeCookies(call, token)}"`,
    `-e ${location.origin}/`,
  ];
  return lines.join(" \\\n  ");
}

/** Write the cookies that a call needs. */
function writeCookies(call, token) {
  const {session, csrfCookie} = api.components.securitySchemes;
  const cookies = [];
  if (csrfCookie) cookies.push(`${csrfCookie.name}=${token}`);
  if (needsSession(call)) cookies.push(`${session.name}=$SESSION`);
  return cookies.join("; ");
}

/** Return whether a call is for logged-in users. */
function needsSession(call) {
  return call.security[0].session !== undefined;
}

/** Write data as options of curl: as JSON, or as files beside a part of JSON. */
function writeCurlData(data) {
  const files = [];
  const rest = {...data};
  for (const [name, value] of Object.entries(rest)) {
    if (!(value instanceof File)) continue;
    files.push(`-F ${quote(`${name}=@${value.name}`)}`);
    delete rest[name];
  }
  if (files.length === 0) return [`--json ${quote(JSON.stringify(data))}`];
  return [`--form-string ${quote(`application/json=${JSON.stringify(rest)}`)}`, ...files];
}

/** Quote a text for a shell. */
function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Make a box of code with a button that copies it, and a note below. */
function makeSample(title, note) {
  const code = makeElement("pre", {});
  const status = makeElement("small", {role: "status"});
  const button = makeElement("button", {type: "button", "aria-label": `Copy ${title}`}, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    status.textContent = "Copied";
  });
  const heading = makeElement("h3", {}, title);
  const head = makeElement("div", {class: "head"}, heading, status, button);
  const box = makeElement("div", {}, head, code);
  if (note) box.append(makeElement("small", {}, note));
  return {code, box};
}

// --- One call ---

const EMPTY_HINT = 'Empty boxes are not sent. Type "" to send an empty text, or null to send null.';
const SESSION_HINT = "Set SESSION to the value of your session cookie. " +
  "Scripts cannot read it, but your browser’s developer tools show it.";

/** Make the view of a call, with a pk in its box. */
function makeView(call, pk) {
  const form = makeForm(call, pk);
  const javascript = makeSample("JavaScript");
  const curl = makeSample("curl", needsSession(call) && SESSION_HINT);
  const reply = makeReply();
  const showCode = () => {
    const path = form.getPath();
    const data = readFields(form.fields);
    if (form.pkField) lastPks.set(call.group, form.pkField.box.value);
    javascript.code.textContent = writeJavaScript(call, path, data);
    curl.code.textContent = writeCurl(call, path, data);
  };
  form.element.addEventListener("input", showCode);
  form.element.addEventListener("submit", event => {
    event.preventDefault();
    submitForm(call, form, reply);
  });
  showCode();
  const boxes = [reply.status, reply.text, javascript.box, curl.box];
  const section = makeElement("section", {}, ...boxes);
  return makeElement("article", {}, makeHeader(call), form.element, section);
}

/** Make the header of a call: its name, what it does and who may call it. */
function makeHeader(call) {
  return makeElement(
    "header",
    {},
    makeElement("h2", {tabindex: -1}, call.name),
    makeElement("p", {}, `${call.summary} ${call.description}`),
    makeElement("p", {}, call.who),
  );
}

/** Make the form of a call: its element, its fields and the path that it calls. */
function makeForm(call, pk) {
  const pkField = makePkField(call, pk);
  const fields = makeFields(call);
  const rows = fields.map(field => field.row);
  const element = makeElement("form", {}, pkField?.row, ...rows);
  if (fields.length > 0) element.append(makeElement("small", {}, EMPTY_HINT));
  element.append(makeElement("button", {type: "submit"}, "Call"));
  const getPath = () => call.name.replace("{pk}", () => pkField.box.value || "{pk}");
  return {element, fields, pkField, getPath};
}

/** Make the field of the pk, or nothing for a call without one. */
function makePkField(call, pk) {
  if (!call.pkSchema) return undefined;
  const field = makeField(call, "pk", call.pkSchema, true);
  field.box.required = true;
  field.box.value = pk || lastPks.get(call.group) || "";
  return field;
}

/** Make a field for each property of the data, or a single one if any data may be sent. */
function makeFields(call) {
  const [content] = Object.values(call.requestBody?.content ?? {});
  const schema = content?.schema;
  if (!schema) return [];
  if (!schema.properties) return [{...makeField(call, "body", schema), isBody: true}];
  return Object.entries(schema.properties).map(([name, property]) =>
    makeField(call, name, property, schema.required.includes(name)));
}

/** Make the place of the reply: its status line, and its text in a box that scrolls. */
function makeReply() {
  const attributes = {class: "reply", tabindex: 0, role: "region", "aria-label": "Reply"};
  return {status: makeElement("div", {role: "status"}), text: makeElement("pre", attributes)};
}

/** Send what a form holds, if the user agrees, and show the reply. */
async function submitForm(call, form, reply) {
  const path = form.getPath();
  if (call.asks && !confirm(`${call.asks}\n${path}`)) return;
  reply.status.replaceChildren("Calling …");
  const {line, text, error, ignored} = await callServer(path, readFields(form.fields));
  const errors = makeElement("span", {class: "bad"}, showErrors(error, form.fields));
  const note = Array.isArray(ignored) && `These keys were not written: ${ignored.join(", ")}.`;
  reply.status.replaceChildren(
    makeElement("strong", {}, line),
    makeElement("small", {}, note),
    errors,
  );
  if (error.loginUrl) {
    reply.status.append(makeElement("a", {href: error.loginUrl}, "Log in"));
  }
  reply.text.textContent = text;
}

/** Make a call; return its status as a line, its reply as text, its error and ignored keys. */
async function callServer(path, data) {
  const start = performance.now();
  try {
    const response = await ajax.fetch(path, data);
    const blob = await response.blob();
    const time = Math.round(performance.now() - start);
    const size = blob.size.toLocaleString("en");
    const line = `${response.status} ${response.statusText}, ${time} ms, ${size} bytes`;
    return {line, ...await readReply(response, blob)};
  } catch (error) {
    return {line: "No reply was received.", text: "", error};
  }
}

/** Return the text of a reply, with JSON indented, its error or {}, and its ignored keys. */
async function readReply(response, blob) {
  if (!/^text|json/.test(blob.type)) return {text: blob.type, error: {}};
  const text = await blob.text();
  const reply = blob.type.includes("json") ? parseJSON(text) : undefined;
  if (reply === undefined) return {text, error: {}};
  let error = {};
  if (reply?.success === false) error = new AJAXError(reply.data?.message, {response, reply});
  return {text: JSON.stringify(reply, null, 2), error, ignored: reply?.ignored};
}

/** Return the value of a JSON text, or undefined. */
function parseJSON(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// --- The list of calls ---

/** List the calls that match the filter, and return them. */
function listCalls() {
  const listedCalls = filterCalls(getElement("#filter").value);
  const {call: currentCall} = findCall(location.hash.slice(1));
  const elements = [];
  let lastGroup;
  for (const [prefix, prefixCalls] of groupByPrefix(listedCalls)) {
    const {group} = prefixCalls[0];
    if (group !== lastGroup) elements.push(makeElement("h2", {}, group));
    lastGroup = group;
    elements.push(makeCallList(prefix, prefixCalls, currentCall));
  }
  getElement("#calls").replaceChildren(...elements);
  return listedCalls;
}

/** Return the call that a text names, or all calls whose name or summary contains it. */
function filterCalls(text) {
  const {call: namedCall} = findCall(text);
  if (namedCall) return [namedCall];
  const word = text.toLowerCase().trim();
  return calls.filter(call => `${call.name} ${call.summary}`.toLowerCase().includes(word));
}

/** Return a map from each prefix to its calls. */
function groupByPrefix(someCalls) {
  const groups = new Map();
  for (const call of someCalls) {
    if (!groups.has(call.prefix)) groups.set(call.prefix, []);
    groups.get(call.prefix).push(call);
  }
  return groups;
}

/** Make the list of the calls with one prefix. */
function makeCallList(prefix, prefixCalls, currentCall) {
  const list = makeElement("ul", {"aria-label": prefix});
  const rest = prefix.slice(prefixCalls[0].group.length + 1);
  if (rest) list.append(makeElement("li", {}, makeElement("code", {}, rest)));
  for (const call of prefixCalls) {
    const current = call === currentCall && "page";
    const attributes = {href: `#${call.name}`, "aria-current": current};
    const link = makeElement("a", attributes, call.name.slice(prefix.length));
    list.append(makeElement("li", {}, link));
  }
  return list;
}

// --- The page ---

/** Show the call that the address names, or the introduction. */
function showPage() {
  const {call, pk} = findCall(location.hash.slice(1));
  getElement("main").replaceChildren(call ? makeView(call, pk) : intro);
  document.title = call ? `${call.name} – ajax.py` : "ajax.py";
  listCalls();
  getElement("[aria-current]")?.scrollIntoView({block: "nearest"});
}

/** Go to the call that the filter names, or else to the first one listed. */
function goToCall() {
  const {call: namedCall, pk} = findCall(getElement("#filter").value);
  const call = namedCall ?? listCalls()[0];
  if (!call) return;
  location.hash = call.name.replace("{pk}", () => encodeURIComponent(pk) || "{pk}");
}

getElement("#you").textContent = getExtras(api).you ?? "";
getElement("#about").textContent = api.info?.description ?? api.data?.message ?? "";
getElement("#filter").addEventListener("input", event => {
  getElement("#found").textContent = `${listCalls().length} of ${calls.length} calls`;
  const isPasted = event.inputType === "insertFromPaste";
  if (isPasted && findCall(event.target.value).call) goToCall();
});
getElement("#find").addEventListener("submit", event => {
  event.preventDefault();
  goToCall();
});
addEventListener("hashchange", () => {
  showPage();
  getElement("main h2")?.focus();
  scrollTo(0, 0);
});
showPage();
"""  # noqa: E501

_STYLE = """:root {
  color-scheme: light dark;
  --background: #fff;
  --raised-background: #f4f6f5;
  --text: #1a1e1c;
  --muted-text: #5a625e;
  --divider: #dde2df;
  --border: #838c87;
  --accent: #0a6b4c;
  --error: #b3261e;
  font: .9375rem/1.5 system-ui, sans-serif;
  color: var(--text);
  background: var(--background);
}

@media (prefers-color-scheme: dark) {
  :root {
    --background: #131615;
    --raised-background: #1c201e;
    --text: #e3e7e5;
    --muted-text: #9ca5a0;
    --divider: #2d3330;
    --border: #75807a;
    --accent: #5fcaa2;
    --error: #ff9c91;
  }
}

* {
  box-sizing: border-box;
  margin: 0;
  padding: 0;
}

:focus-visible {
  outline: 2px solid var(--accent);
  outline-offset: 2px;
}

h1, h3 { font-size: 1em; }

/* A script focuses the heading of a call, so that it is read aloud. */
h2 {
  font-size: 1.25rem;
  outline: none;
}

small {
  display: block;
  color: var(--muted-text);
  font-size: .8125rem;
}

a {
  display: inline-block;
  min-width: 1.5rem;
  color: var(--accent);
}

pre, code, h2, .field label {
  font-family: ui-monospace, Menlo, Consolas, monospace;
  overflow-wrap: anywhere;
}

pre {
  padding: .75rem;
  border-radius: 4px;
  background: var(--raised-background);
  font-size: .8125rem;
  white-space: pre-wrap;
}

input, select, textarea, button {
  padding: .375rem .5rem;
  border: 1px solid var(--border);
  border-radius: 4px;
  color: inherit;
  background: var(--background);
  font: inherit;
}

/* A text area grows with its text, where the browser supports field-sizing. */
input, select, textarea {
  width: 100%;
  min-height: 2.375rem;
  max-height: 20rem;
  field-sizing: content;
}

[type=submit] {
  width: 8rem;
  border-color: var(--accent);
  color: var(--background);
  background: var(--accent);
}

.bad, [aria-invalid=true] {
  display: block;
  border-color: var(--error);
  color: var(--error);
  white-space: pre-line;
}

.bad:empty, pre:empty { display: none; }

#side, main { padding: 1.5rem; }

#side header, nav ul, .field div:first-child, .head {
  display: flex;
  flex-wrap: wrap;
  gap: 0 .75rem;
  align-items: baseline;
}

#find, #intro, article, article form, section {
  display: grid;
  gap: 1.25rem 3rem;
  align-content: start;
  max-width: 42rem;
}

#find {
  gap: .25rem;
  margin: 1.25rem 0;
}

nav h2 {
  margin-top: 1.25rem;
  font-size: .875rem;
}

nav ul {
  list-style: none;
  line-height: 1.75rem;
}

nav a { text-decoration: none; }

nav [aria-current] {
  color: inherit;
  font-weight: 600;
  box-shadow: inset 0 -2px var(--accent);
}

.field {
  display: grid;
  gap: .25rem 1.5rem;
}

.field label {
  font-size: .875rem;
  font-weight: 600;
}

.reply {
  max-height: 60vh;
  overflow: auto;
}

.head button {
  margin: 0 0 .25rem auto;
  padding: .125rem .5rem;
  font-size: .8125rem;
}

/* Narrow: show either the list of calls, or one call and a link back to the list. */
@media not all and (min-width: 52rem) {
  body:has(article) nav { display: none; }
  body:not(:has(article)) #side a[href="#"] { display: none; }
}

/* Wide: show the list beside the call, and each label beside its box. */
@media (min-width: 52rem) {
  body {
    display: grid;
    grid-template-columns: 20rem minmax(0, 1fr);
  }

  #side {
    position: sticky;
    top: 0;
    height: 100vh;
    overflow: auto;
    border-right: 1px solid var(--divider);
  }

  #side a[href="#"] { display: none; }

  .field { grid-template-columns: 10rem minmax(0, 1fr); }
  .field div:first-child { display: block; }
}

/* Very wide: show the reply beside the form. */
@media (min-width: 80rem) {
  article {
    grid-template: auto 1fr / minmax(0, 36rem) minmax(0, 1fr);
    max-width: 90rem;
  }

  section {
    grid-area: 1 / 2 / 3;
    max-width: none;
  }
}
"""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>ajax.py</title>
<link rel="stylesheet" href="explorer.css">
<script type="module" src="explorer.js"></script>
<input type="hidden" name="csrfmiddlewaretoken" value="CSRF_TOKEN">
<div id="side">
  <header>
    <h1>ajax.py</h1>
    <small id="you"></small>
    <a href="#">All calls</a>
  </header>
  <nav aria-label="Calls">
    <form id="find" role="search">
      <label for="filter">Find a call</label>
      <input id="filter" type="search" autocomplete="off" aria-describedby="found">
      <small id="found" role="status">Type a word, or paste a path.</small>
    </form>
    <div id="calls"></div>
  </nav>
</div>
<main>
  <div id="intro">
    <p>Choose a call to see its fields and to try it.</p>
    <pre id="about"></pre>
  </div>
</main>
"""

#: The content type and the text of each file of the page. Serving a text replaces the
#: names of the cookie, the header and the time zone by the site's own, and CSRF_TOKEN
#: by a token.
_TEXTS = {
    "": ("text/html", _PAGE),
    "explorer.css": ("text/css", _STYLE),
    "explorer.js": ("text/javascript", _EXPLORER),
    "client.js": ("text/javascript", _CLIENT),
}


if __name__ == "__main__":
    # By its real name: as __main__ it would be a second copy, with its own registries.
    sys.exit(
        importlib.import_module(__spec__.name if __spec__ else "ajax")._serve_demo()
    )
