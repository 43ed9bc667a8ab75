"""The tools of a plugin: its marked methods, each with its parameters and schema."""

from __future__ import annotations

import inspect
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import msgspec

from plugin_runtime.authoring import ToolOptions, options_of
from plugin_runtime.tools.batches import BatchFault, BatchSettings, batch_settings
from plugin_runtime.tools.output_schema import output_schema
from plugin_runtime.tools.parameters import Parameter, UnfitTool, gathering, input_schema, read_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Tool", "UnfitTool", "collect_tools"]


class Tool(NamedTuple):
    """`arguments` is a msgspec struct of all parameters, UNSET where the caller gave none."""

    name: str
    description: str
    call: Callable[..., Any]
    parameters: Mapping[str, Parameter]
    arguments: type[msgspec.Struct]
    decoder: msgspec.json.Decoder[Any]
    streaming: bool
    output_schema: dict[str, Any] | None
    reads_all: bool = False
    """Whether values need be read by their parameters before msgspec converts them, also where it would take them."""
    completes: bool = False
    """Whether arguments are checked or completed after msgspec."""
    batch: BatchSettings | None = None
    """Where it is called with a list of items, of which each caller sends one: as its first parameter."""
    idempotent: bool = False
    defaults: Mapping[str, Any] = MappingProxyType({})
    """Of a batched tool: the method's own, by which equal arguments are known."""

    @property
    def uploads(self) -> dict[str, str]:
        """Parameter → `bytes` or `path`."""
        return {name: parameter.upload for name, parameter in self.parameters.items() if parameter.upload}

    def document(self) -> dict[str, Any]:
        """Its entry in the status object."""
        return {
            "name": self.name,
            "description": self.description,
            "input_schema": input_schema(list(self.parameters.values())),
            "output_schema": self.output_schema,
            "streaming": self.streaming,
            "uploads": self.uploads,
            "batch": self.batch.document() if self.batch else None,
            "idempotent": self.idempotent,
        }


def collect_tools(plugin: object) -> dict[str, Tool]:
    """Every marked method by its name. Raises UnfitTool for all that are unfit."""
    tools = {}
    faults: list[str] = []
    for name in dir(type(plugin)):
        static = inspect.getattr_static(type(plugin), name)
        function = getattr(static, "__func__", static)  # of a static or class method, marked inside or outside
        if (options := options_of(static, function)) is not None:
            with gathering(faults):
                tools[name] = _tool(name, getattr(plugin, name), options)
    if faults:
        raise UnfitTool(*faults)
    return tools


def _tool(name: str, method: Callable[..., Any], options: ToolOptions) -> Tool:
    streaming = _yields(method) or _yields(inspect.unwrap(method))
    parameters: dict[str, Parameter] = {}
    output: dict[str, Any] | None = None
    batch: BatchSettings | None = None
    faults: list[str] = []
    with gathering(faults):
        batch = _batch(name, options, streaming=streaming)
    batched = options.batch is not None and not streaming
    with gathering(faults):
        parameters = {parameter.name: parameter for parameter in read_parameters(name, method, batched=batched)}
    with gathering(faults):
        output = output_schema(name, method, streaming=streaming, batched=batched)
    if faults:
        raise UnfitTool(*faults)
    arguments = _arguments_struct(name, parameters)
    return Tool(
        name=name,
        description=first_paragraph(inspect.getdoc(method) or ""),
        call=method,
        parameters=parameters,
        arguments=arguments,
        decoder=msgspec.json.Decoder(arguments),
        streaming=streaming,
        output_schema=output,
        reads_all=any(parameter.read.has_objects for parameter in parameters.values()),
        completes=any(map(needs_completion, parameters.values())),
        batch=batch,
        idempotent=options.idempotent is True,
        defaults=_defaults(method) if batch else {},
    )


def _batch(tool: str, options: ToolOptions, *, streaming: bool) -> BatchSettings | None:
    """Raises UnfitTool."""
    if options.idempotent not in (True, False):
        raise UnfitTool(f"tool {tool}: `idempotent` is {options.idempotent!r}, and has to be True or False")
    try:
        settings = batch_settings(options)
    except BatchFault as fault:
        raise UnfitTool(f"tool {tool}: {fault}") from None
    if settings is not None and streaming:
        text = "a generator cannot be batched, since each caller has a stream of its own; return a list, or leave out"
        raise UnfitTool(f"tool {tool}: {text} `batch`")
    return settings


def _defaults(method: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(method).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def _arguments_struct(name: str, parameters: Mapping[str, Parameter]) -> type[msgspec.Struct]:
    # A parameter that was not given is not passed to the call either, so that the method's own default holds: UNSET.
    fields: list[Any] = []
    for parameter in parameters.values():
        if parameter.required:
            fields.append((parameter.name, parameter.hint))
            continue
        # An upload that is null was not given either.
        hint = Union[parameter.hint, None] if parameter.upload else parameter.hint  # noqa: UP007
        fields.append((parameter.name, Union[hint, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007
    try:
        return msgspec.defstruct(f"{name}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
    except Exception as error:
        raise UnfitTool(f"tool {name}: its parameters cannot be checked: {error}") from error


def _yields(function: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def needs_completion(parameter: Parameter) -> bool:
    """Whether msgspec's conversion is not all that its argument needs."""
    optional_upload = parameter.upload is not None and not parameter.required and not parameter.admits_none
    has_more = parameter.check is not None or parameter.convert is not None
    return has_more or optional_upload or parameter.default is not msgspec.NODEFAULT


def first_paragraph(docstring: str) -> str:
    """The description of a tool, on one line."""
    return " ".join(docstring.strip().partition("\n\n")[0].split())
