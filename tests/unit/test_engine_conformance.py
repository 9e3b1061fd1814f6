"""What every engine promises, held by each that runs here: what it says of a model, what it gives, how it refuses."""

from __future__ import annotations

import shutil
import subprocess
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state
from unit import dense_models

from edge_gateway.engines.engine import Engine, EngineFailed, Tensor
from edge_gateway.engines.onnx import REFUSALS
from edge_gateway.engines.opening import CPU_PROVIDER, Choice, Delegate, open_engine
from millrace_models import bundle_path

HERE = Path(__file__).resolve()
MODELS = HERE.parents[3] / "shared" / "data" / "models"
CPU = (CPU_PROVIDER,)


@dataclass(frozen=True)
class Member:
    """One runtime with one model."""

    choice: Choice
    content: bytes

    def open(self) -> Engine:
        return open_engine(self.choice, self.content, "tried@1")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a delegate that leaves all work to the runtime, built here."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    built = tmp_path_factory.mktemp("delegate") / "libplain_delegate.so"
    source = HERE.with_name("plain_delegate.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", built, source], check=True)
    return str(built)


def shared(file: str) -> bytes:
    if not MODELS.is_dir():
        pytest.skip("no real models at ../shared/data")
    return (MODELS / file).read_bytes()


DENSE = ["reference", "litert", "onnx", "onnx, free sides", "delegate"]
REAL = ["parts.tflite", "mnist.onnx", "version-RFB-320.onnx"]


@pytest.fixture
def member(request: pytest.FixtureRequest) -> Member:
    match request.param:
        case "reference":
            return Member(Choice("reference", "dense.npz"), dense_models.npz())
        case "litert":
            return Member(Choice("litert", "dense.tflite"), dense_models.tflite())
        case "onnx":
            return Member(Choice("onnx", "dense.onnx", providers=CPU), dense_models.onnx())
        case "onnx, free sides":
            return Member(Choice("onnx", "dense.onnx", providers=CPU), dense_models.onnx(batch="N", scores="M"))
        case "delegate":
            delegate = Delegate(request.getfixturevalue("library"), (("device", "usb:0"),))
            return Member(Choice("litert", "dense.tflite", delegate=delegate), dense_models.tflite())
        case "parts.tflite":
            return Member(Choice("litert", "model.tflite"), (bundle_path("parts") / "model.tflite").read_bytes())
        case file:
            return Member(Choice("onnx", file, providers=CPU), shared(file))


every = pytest.mark.parametrize("member", [*DENSE, *REAL], indirect=True)
dense = pytest.mark.parametrize("member", DENSE, indirect=True)


def some(engine: Engine, seed: int = 1) -> Tensor:
    """Return an input of the engine's shape and type with something in it."""
    numbers = np.random.default_rng(seed)
    if engine.input.dtype.kind == "f":
        return numbers.normal(size=engine.input.shape).astype(engine.input.dtype)
    limits = np.iinfo(engine.input.dtype)
    return numbers.integers(limits.min, limits.max, engine.input.shape, engine.input.dtype, endpoint=True)


@every
def test_it_gives_what_it_says_in_shape_and_type_and_names_each(member: Member) -> None:
    engine = member.open()
    given = engine.infer(some(engine))
    assert [(output.shape, output.dtype) for output in engine.outputs] == [(one.shape, one.dtype) for one in given]
    assert all(isinstance(one, np.ndarray) for one in given)
    assert engine.input.shape[0] == 1
    assert len({info.name for info in (engine.input, *engine.outputs)}) == 1 + len(engine.outputs)


@every
def test_a_scale_is_said_for_integers_alone(member: Member) -> None:
    engine = member.open()
    for info in (engine.input, *engine.outputs):
        assert (info.scale > 0) == (info.dtype.kind in "iu")
        assert info.scale > 0 or info.zero_point == 0


@dense
def test_the_same_model_gives_the_same_numbers_by_every_runtime(member: Member) -> None:
    engine = member.open()
    assert (engine.input.shape, engine.input.dtype) == (dense_models.SHAPE, np.float32)
    for seed in range(3):
        (given,) = engine.infer(some(engine, seed))
        np.testing.assert_allclose(given, dense_models.expected(some(engine, seed)), rtol=0, atol=1e-5)


@every
def test_an_answer_is_the_callers_own(member: Member) -> None:
    engine = member.open()
    first = engine.infer(some(engine, 1))
    kept = [one.copy() for one in first]
    engine.infer(some(engine, 2))
    assert all((one == before).all() for one, before in zip(first, kept, strict=True))
    for one in first:
        one[...] = 0
    assert all((one == before).all() for one, before in zip(engine.infer(some(engine, 1)), kept, strict=True))


@every
def test_what_is_given_is_not_changed_and_not_kept(member: Member) -> None:
    engine = member.open()
    given = some(engine)
    before = given.copy()
    answer = engine.infer(given)
    assert (given == before).all()
    given[...] = 0
    assert all((one == two).all() for one, two in zip(engine.infer(before), answer, strict=True))


@every
def test_an_input_that_lies_otherwise_in_memory_is_the_same_input(member: Member) -> None:
    engine = member.open()
    plain = some(engine)
    turned = np.asfortranarray(plain)
    assert not turned.flags.c_contiguous
    assert all((one == two).all() for one, two in zip(engine.infer(turned), engine.infer(plain), strict=True))


@every
def test_the_same_input_gives_the_same_bits_again_and_in_another_engine(member: Member) -> None:
    first, second = member.open(), member.open()
    answers = [engine.infer(some(first)) for engine in (first, first, second)]
    assert all((one == two).all() for other in answers[1:] for one, two in zip(answers[0], other, strict=True))


@every
def test_engines_on_several_threads_do_not_mix_their_answers(member: Member) -> None:
    engines = [member.open() for _ in range(3)]
    wanted = [engine.infer(some(engine, seed)) for seed, engine in enumerate(engines)]
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for _ in range(10):
            given = engines[seed].infer(some(engines[seed], seed))
            wrong.extend(seed for one, two in zip(given, wanted[seed], strict=True) if not (one == two).all())

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@every
def test_a_wrong_input_is_refused_in_one_line_and_the_next_one_is_answered(member: Member) -> None:
    engine = member.open()
    good = some(engine)
    wanted = engine.infer(good)
    other_type = np.int32 if good.dtype == np.float32 else np.float32
    for bad in (
        good.astype(other_type),
        good[0],
        good[:, :0],
        np.concatenate([good, good]),
        good.swapaxes(1, 3)[..., :1],
    ):
        with pytest.raises(EngineFailed, match=r"^model tried@1: .+$"):
            engine.infer(bad)
        assert all((one == two).all() for one, two in zip(engine.infer(good), wanted, strict=True))


@every
def test_one_thread_means_no_threads_of_its_own_and_closing_leaves_nothing(member: Member) -> None:
    member.open().close()  # what a runtime starts once for the whole process
    before = held()
    engines = [member.open() for _ in range(4)]
    for engine in engines:
        engine.infer(some(engine))
    assert held() == before
    for engine in engines:
        engine.close()
    assert held() == before


@pytest.mark.parametrize("member", ["onnx", "parts.tflite"], indirect=True)
def test_more_threads_are_there_while_the_engine_is_and_gone_with_it(member: Member) -> None:
    member.open().close()
    threads, _ = held()
    engine = replace(member, choice=replace(member.choice, threads=3)).open()
    wanted = member.open().infer(some(engine))
    assert all(np.allclose(one, two, atol=1e-5) for one, two in zip(engine.infer(some(engine)), wanted, strict=True))
    assert held()[0] == threads + 2
    engine.close()
    assert held()[0] == threads


def held() -> tuple[int, int]:
    """Return how many threads and open files this process has."""
    return len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir()))


@dense
@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 64], ids=["empty", "text", "zeros"])
def test_what_is_no_model_is_refused_in_one_line(member: Member, content: bytes) -> None:
    with pytest.raises(EngineFailed, match=r"^model tried@1: .+$"):
        replace(member, content=content).open()


@every
def test_a_model_that_is_cut_short_is_refused(member: Member) -> None:
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(EngineFailed, match=r"^model tried@1: .+$"):
            replace(member, content=member.content[: int(len(member.content) * share)]).open()


REFUSED = {
    "mobilenet_v2_1.0_224_quant_edgetpu.tflite": "compiled for the Edge TPU .* name it in the manifest as edgetpu_file",
    "posenet_mobilenet_v1_075_353_481_16_quant_decoder.tflite": "custom op: PosenetDecoderOp; .* name the delegate",
    "model_invoking_error.tflite": "unresolved custom op: fake-op-double; .* take a model without it",
    "person_detect.tflite": "LiteRT refuses it: quantized_dimension must be in range",
}


@pytest.mark.parametrize("file", REFUSED)
def test_a_real_model_that_cannot_run_is_refused_with_what_to_do(file: str) -> None:
    with pytest.raises(EngineFailed, match=rf"^model tried@1: .*{REFUSED[file]}[^\n]*$"):
        open_engine(Choice("litert", file), shared(file), "tried@1")


def test_a_model_that_needs_all_of_tensorflow_is_refused_with_how_to_convert_it() -> None:
    with pytest.raises(EngineFailed, match=r"^model tried@1: .*\(Flex\), .*TFLITE_BUILTINS\]$"):
        open_engine(Choice("litert", "flex.tflite"), dense_models.tflite(custom="FlexErf"), "tried@1")


def test_whatever_the_onnx_runtime_raises_is_a_refusal() -> None:
    kinds = [kind for kind in vars(onnxruntime_pybind11_state).values() if isinstance(kind, type)]
    raised = [kind for kind in kinds if issubclass(kind, Exception)]
    assert {"Fail", "NotFound", "RuntimeException"} <= {kind.__name__ for kind in raised}
    assert all(issubclass(kind, REFUSALS) for kind in raised)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (dense_models.onnx(width="W"), r"input x leaves sides free \(1, 3, 2, 'W'\); export the model with fixed ones"),
        (dense_models.onnx(element=16), r"x is a tensor\(bfloat16\); plain tensors are run"),
    ],
    ids=["free sides", "no NumPy type"],
)
def test_an_onnx_model_that_no_frame_fits_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(EngineFailed, match=f"^model tried@1: {said}"):
        open_engine(Choice("onnx", "dense.onnx", providers=CPU), content, "tried@1")


@pytest.mark.parametrize("file", ["weights.bin", "../{}/weights.bin", "{}/weights.bin"])
def test_an_onnx_model_whose_weights_are_in_another_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """The bundle's digest does not cover that file, which is there and whole."""
    (tmp_path / "weights.bin").write_bytes(dense_models.WEIGHTS.tobytes())
    monkeypatch.chdir(tmp_path)
    content = dense_models.onnx(weights_in=file.format(tmp_path.name))
    with pytest.raises(EngineFailed, match=r"^model tried@1: ONNX Runtime refuses it: .*weights\.bin"):
        open_engine(Choice("onnx", "dense.onnx", providers=CPU), content, "tried@1")


def test_a_provider_that_does_not_start_is_refused_and_never_replaced_in_silence() -> None:
    choice = Choice("onnx", "dense.onnx", providers=("NoSuchExecutionProvider", CPU_PROVIDER))
    with pytest.raises(EngineFailed, match=r"^model tried@1: .*NoSuchExecutionProvider does not start here$"):
        open_engine(choice, dense_models.onnx(), "tried@1")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bias": np.zeros(4)}, r"weights \(18, 5\) and bias \(4,\) do not fit input \(1, 3, 2, 3\)"),
        ({"shape": np.asarray([3, 2, 3])}, "do not fit input"),
        ({"weights": np.asarray([{}])}, "is no .npz"),
    ],
)
def test_a_reference_model_whose_arrays_do_not_fit_is_refused(changed: dict[str, Tensor], said: str) -> None:
    with pytest.raises(EngineFailed, match=said):
        open_engine(Choice("reference", "dense.npz"), dense_models.npz(**changed), "tried@1")


def test_a_delegate_gets_its_options_and_its_refusal_is_told(library: str) -> None:
    options = (("device", "usb:7"), ("refuse", "yes"))
    said = r"libplain_delegate.so,device=usb:7,refuse=yes refuses: asked for device=usb:7 refuse=yes$"
    with pytest.raises(EngineFailed, match=said):
        open_engine(Choice("litert", "x", delegate=Delegate(library, options)), dense_models.tflite(), "tried@1")


def test_a_delegate_that_is_not_there_or_is_none_is_told_apart(tmp_path: Path) -> None:
    text = tmp_path / "libtext.so"
    text.write_text("no library")
    for library, said in (
        ("libnothing.so.1", "cannot open shared object file.*; install it, or mend its path"),
        (str(text), "libtext.so: .*; install it, or mend its path"),
        ("libm.so.6", "libm.so.6 is no TensorFlow Lite delegate"),
    ):
        with pytest.raises(EngineFailed, match=said):
            open_engine(Choice("litert", "x", delegate=Delegate(library)), dense_models.tflite(), "tried@1")
