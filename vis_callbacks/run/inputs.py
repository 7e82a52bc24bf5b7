"""What the pictures are made from: each technique's subject, its network, and its samples."""

from typing import Any

from vis_callbacks._lightning import (
    LightningModule,
    Trainer,
    data_holders,
    has_validation,
    is_fitting,
    optimized_parameters,
)
from vis_callbacks.data.class_names import find_class_names
from vis_callbacks.data.selector import SampleSelector
from vis_callbacks.errors import ConfigurationError
from vis_callbacks.model.known_classes import Classes, stated_classes
from vis_callbacks.model.subject import Forward
from vis_callbacks.run.members import Members
from vis_callbacks.run.selection import Ready
from vis_callbacks.run.subjects import Subjects
from vis_callbacks.run.technique import Technique
from vis_callbacks.run.timer import Timer
from vis_callbacks.run.warn_once import WarnOnce


class Inputs:
    """Finds the subjects and the samples of a run's techniques, and checks the options against them.

    Args:
        members: The callbacks of the run.
        timer: Where the seconds are counted.
        warnings: Where it is said what was not found.

    Attributes:
        subjects: What the pictures are about.
        selector: The images that they are of.
    """

    def __init__(self, members: Members, timer: Timer, warnings: WarnOnce) -> None:
        self.subjects = Subjects()
        self.selector = SampleSelector()
        self._members = members
        self._timer = timer
        self._warnings = warnings

    def request(self, technique: Technique) -> None:
        """Announce a technique, so that its subject and samples are found."""
        self.subjects.request(technique.forward)
        if technique.uses_samples:
            self.selector.request(technique.sample_request)

    def check(self, technique: Technique, module: LightningModule) -> None:
        """Raise a `ConfigurationError` if an option fits nothing that may be the network of the pictures."""
        errors: list[Exception] = []
        for model in self.subjects.candidates(module, technique.forward):
            try:
                return technique.check(model)
            except ConfigurationError as error:
                errors.append(error)
        raise errors[0]

    def check_classes(self, trainer: Trainer, module: LightningModule) -> None:
        """Find the class names; raise a `ConfigurationError` if an option names none of them."""
        class_names, problem = self._class_names(trainer, module, None)
        if trainer.is_global_zero:
            self._warnings.warn_class_names(problem)
        for technique in self._members.techniques:
            technique.check_classes(class_names)
        if class_names:
            self.selector.set_class_count(len(class_names))

    def start(self, module: LightningModule) -> None:
        """Start a fit, validation or test: go on with what a checkpoint held, and check the options."""
        for technique in self._members.techniques:
            if technique.restored_subject:
                self.subjects.restore(module, technique.forward, technique.restored_subject)
                technique.restored_subject = {}
            self.check(technique, module)
            if technique.restored_samples:
                self.selector.load_state_dict(technique.restored_samples)
                technique.restored_samples = {}

    def watch(self, trainer: Trainer, module: LightningModule, stage: str, batch: Any) -> None:
        """Watch what the step does with a batch, until all subjects are known."""
        if self.subjects.wanted:
            with self._timer.time("subject"):
                optimized = optimized_parameters(trainer)
                techniques = self._members.techniques
                readers = [one.sample_request.batch_to_images for one in techniques if one.uses_samples]
                self.subjects.watch(
                    module,
                    batch,
                    optimized=optimized,
                    training=stage == "train",
                    readers=list(dict.fromkeys(filter(None, readers))),
                )

    def settle(self, trainer: Trainer, module: LightningModule, *, final: bool) -> None:
        """Find the subjects that can be told by now; all of them if `final`."""
        self.subjects.stop_watching()
        if not self.subjects.wanted:
            return

        def classes(forward: Forward) -> Classes:
            given = [one.sample_request.class_names for one in self._members.techniques if one.forward is forward]
            names = next(filter(None, given), ()) or self._class_names(trainer, module, forward)[0]
            return Classes(len(names), stated_classes(module))

        with self._timer.time("subject"):
            fitting = is_fitting(trainer)
            validates = fitting and has_validation(trainer)
            for subject in self.subjects.settle(module, classes, fitting=fitting, validates=validates, final=final):
                # Where no samples can be taken, that is said instead.
                blank = self.subjects.without_images and self.selector.wants_batches
                if subject.problem and trainer.is_global_zero and not blank:
                    self._warnings.warn_subject(subject.problem)

    def resolve(
        self, technique: Technique, trainer: Trainer, module: LightningModule, *, complete: bool, now: bool = False
    ) -> Ready:
        """Return a technique with its subject and samples, or with the reason why it has none.

        Args:
            technique: The technique.
            trainer: Its data may state class names and normalization.
            module: The user's module.
            complete: Whether all batches were seen, so that fewer samples than asked for must do.
            now: Whether a picture cannot be made later, so that samples of a few classes must do.
        """
        name = self._members.names[technique]
        try:
            found = self.subjects.get(module, technique.forward)
            if found is None:
                return Ready(technique, name, subject=None)
            subject, model = found
            if not technique.uses_samples:
                return Ready(technique, name, subject=subject, model=model)
            holders, width = data_holders(trainer, module), subject.class_count
            samples = self.selector.samples(
                technique.sample_request, model, holders, enough=complete, now=now, width=width
            )
            if not subject.problem:
                self._warnings.warn_class_names(self.selector.name_problem)
                self._warnings.warn_batches(self.selector.batch_problem)
            return Ready(technique, name, samples, subject=subject, model=model)
        except Exception as error:
            return Ready(technique, name, error=error)

    def _class_names(self, trainer: Trainer, module: LightningModule, forward: Forward) -> tuple[tuple[str, ...], str]:
        """Return the class names of an option's network, and what is wrong with them."""
        model = self.subjects.candidates(module, forward)[0]
        return find_class_names(model, data_holders(trainer, module), labels=self.selector.labels)
