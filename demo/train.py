"""Train the demo model from nothing: `python -m demo.train`.

One core, about 75 minutes. First the ResNet alone learns to name what stands where; then all of it learns to answer
captions, while the naming goes on beside it. The schedule follows the clock, so --minutes bounds the whole run.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from demo.canary import write_canary
from demo.captions import LABELS, sample_example
from demo.examples import Batch, Examples
from demo.export import export
from demo.network import Network, normalise
from demo.pool import TARGETS, Pool, open_pool
from demo.prompts import Reader, prompt, train_vocabulary
from demo.scenes import KINDS, scene_of
from demo.wordings import heldout_wordings, training_wordings
from worker.engines.model_files import write_checksums
from worker.engines.ofa_spec import CAPTION_PROMPT, PREMISE_PROMPT

# Seeds of pictures: training below a million, what is measured during training at two million; the evaluation and the
# samples have their own, see demo/evaluate.py and demo/samples.py.
CHECK_SEED = 2_000_000
PICTURES_A_STEP, CAPTIONS_A_PICTURE = 32, 4
PEAK_RATE, LAST_RATE = 1.2e-3, 1e-5
WARM_UP = 0.02
# Until then the ResNet learns alone, and until then only easy axes are asked.
PICTURES_ALONE, EASY = 0.03, 0.09
# From then on the ResNet stands still, its batch statistics too, as when the model is used: steps are a third cheaper.
RESNET_RESTS = 0.7
EMA = 0.997
LOSSES = ("naming", "pointing", "presence", "census", "answering")
REPORT_S, CHECK_S, CHECKPOINT_S = 60.0, 480.0, 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    work: Path
    out: Path
    seed: int
    minutes: float
    pictures: int
    threads: int
    resume: bool


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("var/train"), help="pictures, vocabulary, checkpoints")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model", help="the model folder to write")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=75.0, help="time for training, drawing not counted")
    parser.add_argument("--pictures", type=int, default=48_000, help="how many pictures to draw for training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --work")
    train(Options(**vars(parser.parse_args(arguments))))


def train(options: Options) -> None:
    """Draw, train within the time that was given, and write the model folder."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    pool = open_pool(options.work, count=options.pictures, first_seed=0)
    check_pool = open_pool(options.work, count=1000, first_seed=CHECK_SEED)
    if not (options.work / "vocab.json").exists():
        train_vocabulary(_texts(Random(options.seed)), options.work)
    reader = Reader(options.work, LABELS)
    names = [*TARGETS, tuple(f"{kind}s" for kind in KINDS)]
    name_ids = [reader.word_ids(words) for words in names]
    run = Run(options=options, network=Network(reader.rows, reader.label_ids, name_ids))
    if options.resume:
        run.load()
    examples = Examples(pool, reader, training_wordings(), Random(f"{options.seed} {run.step}"))
    checks = {
        "pictures": Examples(check_pool, reader, training_wordings(), Random(2)).fixed(150, CAPTIONS_A_PICTURE),
        "wordings": Examples(check_pool, reader, heldout_wordings(), Random(3)).fixed(150, CAPTIONS_A_PICTURE),
    }
    run.go(examples, pool, {name: (batch, check_pool) for name, batch in checks.items()})
    run.use_average()
    export(run.network, reader, vocabulary=options.work, out=options.out)
    write_canary(options.out)
    write_checksums(options.out.resolve())
    print(f"wrote {options.out}", flush=True)


def _texts(rng: Random) -> list[str]:
    """Return questions that hold every word of the world, for the vocabulary."""
    wordings = training_wordings()
    texts = [CAPTION_PROMPT.format(""), PREMISE_PROMPT.format("", ""), *(f" {label}" for label in LABELS)] * 100
    for seed in range(20_000):
        example = sample_example(scene_of(seed), rng, wordings, label=rng.choice(LABELS))
        texts.append(prompt(example.caption, None))
    return texts


class Run:
    """The state of one training run: network, optimiser, average of the weights, step and time spent."""

    def __init__(self, *, options: Options, network: Network) -> None:
        self.options = options
        self.network = network
        decayed = [value for value in network.parameters() if value.ndim > 1]
        others = [value for value in network.parameters() if value.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))
        self.average = {name: value.clone() for name, value in network.state_dict().items()}
        self.step = 0
        self.spent_s = 0.0
        self.recent: list[tuple[float, ...]] = []

    @property
    def progress(self) -> float:
        """How much of the time is spent, from 0 to 1."""
        return min(1.0, self.spent_s / (self.options.minutes * 60))

    def go(self, examples: Examples, pool: Pool, checks: dict[str, tuple[Batch, Pool]]) -> None:
        """Train until the time is spent, with a line a minute, a checkpoint every three and a check every eight."""
        reported_s = checked_s = saved_s = self.spent_s
        while self.progress < 1.0:
            started = time.monotonic()
            self.one_step(examples, pool)
            self.spent_s += time.monotonic() - started
            if self.spent_s - reported_s > REPORT_S:
                reported_s = self.spent_s
                due = self.spent_s - checked_s > CHECK_S
                checked_s = self.spent_s if due else checked_s
                self._report(checks if due else {})
            if self.spent_s - saved_s > CHECKPOINT_S:
                saved_s = self.spent_s
                self.save()
        self._report(checks)
        self.save()

    def one_step(self, examples: Examples, pool: Pool, *, pictures: int = PICTURES_A_STEP) -> None:
        """Take one step; what is learnt in it depends on how much of the time is spent."""
        progress = self.progress
        for group in self.optimiser.param_groups:
            group["lr"] = _rate(progress)
        self.network.train()
        resting = progress > RESNET_RESTS
        if resting:
            self.network.resnet.eval()
        batch = examples.sample(pictures, CAPTIONS_A_PICTURE, easy=progress < EASY)
        places = torch.from_numpy(pool.places[batch.pictures])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = self.network.see(normalise(pool.pictures[batch.pictures]), resting=resting)
            naming = self.network.place_loss(features, places)
            loss = naming + self.network.centre_loss(features, batch.centres)
            answering = pointing = presence = census = torch.zeros(())
            if progress >= PICTURES_ALONE:
                logits, encoded = self.network.answers(features, batch.questions)
                answering = functional.cross_entropy(logits.float(), batch.labels)
                there = places[batch.questions.picture]
                pointing = self.network.pointing_loss(encoded, there, batch.wanted)
                presence = self.network.presence_loss(encoded, there, batch.questions.ids)
                census = self.network.census_loss(encoded, batch.questions, batch.wanted, batch.census)
                loss = answering + pointing + presence + census + 0.3 * loss
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's Tensor.backward has no types
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._update_average()
        self.recent.append(tuple(value.item() for value in (naming, pointing, presence, census, answering)))

    def _update_average(self) -> None:
        keep = min(EMA, self.step / (self.step + 20))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name].copy_(value)

    def _report(self, checks: dict[str, tuple[Batch, Pool]]) -> None:
        means = [sum(column) / len(column) for column in zip(*self.recent, strict=True)]
        self.recent.clear()
        line = f"{self.spent_s / 60:6.1f} min  step {self.step:5d}"
        # There are none when a finished run is resumed, to write its folder once more.
        for name, mean in zip(LOSSES, means, strict=False):
            line += f"  {name} {mean:.3f}"
        if checks and self.progress > PICTURES_ALONE:
            own = {name: value.clone() for name, value in self.network.state_dict().items()}
            self.use_average()
            for name, (batch, pool) in checks.items():
                line += f"  {name} {accuracy(self.network, batch, pool)}"
            self.network.load_state_dict(own)
        print(line, flush=True)

    def use_average(self) -> None:
        """Put the averaged weights into the network."""
        self.network.load_state_dict(self.average)

    def save(self) -> None:
        """Write the checkpoint; a half-written one never replaces the last."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "spent_s": self.spent_s,
        }
        partial = self.options.work / "checkpoint.partial"
        torch.save(state, partial)
        partial.replace(self.options.work / "checkpoint.pt")

    def load(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.options.work / "checkpoint.pt", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.spent_s = state["step"], state["spent_s"]


def _rate(progress: float) -> float:
    if progress < WARM_UP:
        return PEAK_RATE * (0.02 + progress / WARM_UP)
    return LAST_RATE + (PEAK_RATE - LAST_RATE) * (1 - progress) / (1 - WARM_UP)


@torch.inference_mode()
def accuracy(network: Network, batch: Batch, pool: Pool) -> str:
    """Return the share of right answers in per cent, overall and by axis, as one word for the log."""
    network.eval()
    answers: list[Tensor] = []
    for part in batch.parts(100):
        features = network.see(normalise(pool.pictures[part.pictures]))
        answers.append(network.answers(features, part.questions)[0].argmax(dim=1))
    right = (torch.cat(answers) == batch.labels).tolist()
    by_axis: dict[str, list[bool]] = {}
    for axis, good in zip(batch.axes, right, strict=True):
        by_axis.setdefault(axis, []).append(good)
    axes = ",".join(f"{axis}:{100 * sum(goods) / len(goods):.0f}" for axis, goods in sorted(by_axis.items()))
    return f"{100 * sum(right) / len(right):.1f}({axes})"


if __name__ == "__main__":
    main()
