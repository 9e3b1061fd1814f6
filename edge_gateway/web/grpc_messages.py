"""The messages of the Open Inference Protocol's gRPC form, built from their names and numbers; no generated code."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

# message -> its fields: name, type (* repeated), number. `parameters` is a map of names to InferParameter.
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live bool 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready bool 1",
    "ModelReadyRequest": "name string 1, version string 2",
    "ModelReadyResponse": "ready bool 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name string 1, version string 2, extensions *string 3",
    "ModelMetadataRequest": "name string 1, version string 2",
    "ModelMetadataResponse": "name string 1, versions *string 2, platform string 3, "
    "inputs *ModelMetadataResponse.TensorMetadata 4, outputs *ModelMetadataResponse.TensorMetadata 5",
    "ModelMetadataResponse.TensorMetadata": "name string 1, datatype string 2, shape *int64 3",
    "ModelInferRequest": "model_name string 1, model_version string 2, id string 3, parameters map 4, "
    "inputs *ModelInferRequest.InferInputTensor 5, outputs *ModelInferRequest.InferRequestedOutputTensor 6, "
    "raw_input_contents *bytes 7",
    "ModelInferRequest.InferInputTensor": "name string 1, datatype string 2, shape *int64 3, parameters map 4, "
    "contents InferTensorContents 5",
    "ModelInferRequest.InferRequestedOutputTensor": "name string 1, parameters map 2",
    "ModelInferResponse": "model_name string 1, model_version string 2, id string 3, parameters map 4, "
    "outputs *ModelInferResponse.InferOutputTensor 5, raw_output_contents *bytes 6",
    "ModelInferResponse.InferOutputTensor": "name string 1, datatype string 2, shape *int64 3, parameters map 4, "
    "contents InferTensorContents 5",
    "InferParameter": "bool_param bool 1, int64_param int64 2, string_param string 3, double_param double 4, "
    "uint64_param uint64 5",
    "InferTensorContents": "bool_contents *bool 1, int_contents *int32 2, int64_contents *int64 3, "
    "uint_contents *uint32 4, uint64_contents *uint64 5, fp32_contents *float 6, fp64_contents *double 7, "
    "bytes_contents *bytes 8",
}
_SCALARS = {"bool", "string", "bytes", "int32", "int64", "uint32", "uint64", "float", "double"}
METHODS = tuple(name.removesuffix("Request") for name in _MESSAGES if name.endswith("Request"))


def describe() -> FileDescriptorProto:
    """Return the description of all messages, as the protocol's .proto file has it."""
    file = FileDescriptorProto(name="millrace/open_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, DescriptorProto] = {}
    for path, fields in _MESSAGES.items():
        outer, _, name = path.rpartition(".")
        made[path] = message = made[outer].nested_type.add() if outer else file.message_type.add()
        message.name = name
        for field in filter(None, fields.split(", ")):
            _add_field(message, path, *field.split())
    choice = made["InferParameter"]
    choice.oneof_decl.add(name="parameter_choice")
    for one in choice.field:
        one.oneof_index = 0
    return file


def message(name: str) -> Any:
    """Return the class of a message."""
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def _add_field(message: DescriptorProto, path: str, name: str, kind: str, number: str) -> None:
    field = message.field.add(name=name, number=int(number))
    is_map = kind == "map"
    repeated = is_map or kind.startswith("*")
    field.label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
    kind = f"{path}.ParametersEntry" if is_map else kind.removeprefix("*")
    if kind in _SCALARS:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type = FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"
    if is_map:
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add_field(entry, kind, "key", "string", "1")
        _add_field(entry, kind, "value", "InferParameter", "2")


_POOL = DescriptorPool()
_POOL.Add(describe())
