"""The callbacks of one Trainer: the first one leads, and those that make pictures have names."""

from vis_callbacks.run.technique import Technique


class Members:
    """The callbacks that share a run.

    Attributes:
        names: The callbacks that make pictures, in the order in which they came, each with its name in this run.
    """

    def __init__(self) -> None:
        self.names: dict[Technique, str] = {}
        self._joined: list[object] = []

    @property
    def techniques(self) -> list[Technique]:
        """The callbacks that make pictures."""
        return list(self.names)

    def join(self, member: object) -> None:
        """Add a callback, whether it makes pictures or not. The first one leads."""
        if member not in self._joined:
            self._joined.append(member)

    def led_by(self, member: object) -> bool:
        """Whether a callback is the one on whose hooks the run acts."""
        return bool(self._joined) and self._joined[0] is member

    def add_technique(self, technique: Technique) -> bool:
        """Name a callback that makes pictures; return whether it is new.

        The second one of a name gets the suffix ``_2``, and so on.
        """
        if technique in self.names:
            return False
        name, number = technique.name, 2
        while name in self.names.values():
            name, number = f"{technique.name}_{number}", number + 1
        self.names[technique] = name
        return True
