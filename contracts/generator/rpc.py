"""Writes the `rpc` module of a package: the grpc.aio stub, and the base class of servicers."""

import textwrap

from generator.model import File, Method

_HEAD = '''"""The calls of {full_name} over grpc.aio. Generated from {source}."""

from __future__ import annotations  # the types of grpc are generic for type checkers only

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from souk_contracts.carrier import Answer, Carrier
from souk_contracts.channel import DEFAULT_TIMEOUT_S, Caller
from souk_contracts.handlers import Batched, each_alone, unary
from {python_package}.codec import (
{codecs}
)
from {python_package}.messages import (
{names}
)


class {name}Stub:
    """{comment}

    Every call has a deadline: its own `timeout_s`, or else the stub's. It raises `grpc.aio.AioRpcError`; what a
    refusal says is in `souk_contracts.errors.refusal_of`. A list of calls raises nothing: each has its own result.
    """

    def __init__(self, channel: Caller, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._carrier = Carrier(channel)
'''

_STUB_INIT = """        self._{python_name} = channel.unary_unary("{path}", None, decode_{response})
"""

_STUB_CALL = '''
    def {python_name}(
        self, request: {request}, *, timeout_s: float | None = None
    ) -> grpc.aio.UnaryUnaryCall[{request}, {response}]:
        """{comment}"""
        # Here, since grpc sends an empty request in place of one that cannot be encoded.
        encoded = encode_{request_codec}(request)
        call: Any = self._{python_name}(encoded, timeout=self._timeout_s if timeout_s is None else timeout_s)
        return call  # type: ignore[no-any-return]

    async def {python_name}_all(
        self, requests: Sequence[{request}], *, timeout_s: float | None = None
    ) -> Sequence[Answer[{response}]]:
        """Calls of `{python_name}` that are made together: what became of each."""
        return await self._carrier.call_all(
            "{path}",
            encode_{request_codec},
            decode_{response_codec},
            requests,
            self._timeout_s if timeout_s is None else timeout_s,
        )
'''

_SERVICER = '''

class {name}Servicer:
    """Base of the servers of {full_name}: override what you serve, the rest answers UNIMPLEMENTED.

    Raise `souk_contracts.errors.Refused` to refuse a call, or return it among the results of several.
    """

    SERVICE_NAME = "{full_name}"
'''

_SERVICER_CALL = '''
    async def {python_name}(self, request: {request}) -> {response}:
        """{comment}"""
        raise NotImplementedError

    async def {python_name}_all(self, requests: Sequence[{request}]) -> Sequence[{response} | Exception]:
        """Calls of `{python_name}` that came together: what each would return or raise. Override it to be faster."""
        return await each_alone(self.{python_name}, requests)
'''

_HANDLER_HEAD = '''
    def handler(self) -> grpc.GenericRpcHandler:
        """What `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        return grpc.method_handlers_generic_handler(
            self.SERVICE_NAME,
            {
'''

_HANDLER_CALL = """                "{name}": unary(self.{python_name}, decode_{request}, encode_{response}),
"""

_HANDLER_TAIL = """            },
        )
"""

_BATCH_HEAD = '''
    def batched(self) -> Mapping[str, Batched]:
        """For each method, by its path: how calls that came together are carried out."""
        return {
'''

_BATCH_CALL = """            "{path}": Batched(decode_{request}, self.{python_name}_all, encode_{response}),
"""

_BATCH_TAIL = """        }
"""


def rpc_module(file: File) -> str:
    """The module's source."""
    snakes = {message.name: message.snake_name for message in file.messages}
    methods = file.service.methods
    names = {name for method in methods for name in (method.request, method.response)}
    codecs = {f"{way}_{snakes[name]}" for name in names for way in ("encode", "decode")}
    head = _HEAD.format(
        full_name=file.service.full_name,
        source=file.name,
        python_package=file.python_package,
        codecs="\n".join(f"    {name}," for name in sorted(codecs)),
        names="\n".join(f"    {name}," for name in sorted(names)),
        name=file.service.python_name,
        comment=file.service.comment,
    )
    return "".join(
        [
            head,
            *(_STUB_INIT.format(**_wire_names(method, snakes)) for method in methods),
            *(_STUB_CALL.format(**_python_names(method, snakes)) for method in methods),
            _SERVICER.format(name=file.service.python_name, full_name=file.service.full_name),
            *(_SERVICER_CALL.format(**_python_names(method, snakes)) for method in methods),
            _HANDLER_HEAD,
            *(_HANDLER_CALL.format(**_wire_names(method, snakes)) for method in methods),
            _HANDLER_TAIL,
            _BATCH_HEAD,
            *(_BATCH_CALL.format(**_wire_names(method, snakes)) for method in methods),
            _BATCH_TAIL,
        ]
    )


def _wire_names(method: Method, snakes: dict[str, str]) -> dict[str, str]:
    return {
        "name": method.name,
        "python_name": method.python_name,
        "path": method.path,
        "request": snakes[method.request],
        "response": snakes[method.response],
    }


def _python_names(method: Method, snakes: dict[str, str]) -> dict[str, str]:
    return {
        "python_name": method.python_name,
        "path": method.path,
        "request": method.request,
        "response": method.response,
        "request_codec": snakes[method.request],
        "response_codec": snakes[method.response],
        "comment": textwrap.indent(method.comment, " " * 8).strip(),
    }
