"""What a simulated cell is asked to do: rates, timing of a weld, classes, and the seeds of everything random."""

from dataclasses import dataclass

from acquisition.simulated.causes import CLASS_LABELS
from acquisition.simulated.faults import fault_names
from acquisition.simulated.recipes import BANDS, JOINTS, PLATES_MM, RecipePool, current_range_a, in_pool, recipe_name


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """Settings of the simulated cell; equal settings give equal worlds.

    Attributes:
        seed: Seeds the welds and the device clocks.
        session: Draws the recipe and the nuisances (microphone, camera pose, light, gas); one session is one shift.
        classes: Classes of the live welds, one after the other, repeated for ever.
        severity: Range that the severity of a defective weld is drawn from, within 0..1.
        idle_s: Time before the arc.
        arc_s: Mean arc time; each weld draws 80-120 % of it.
        tail_s: Time after the arc that still belongs to the weld.
        gap_s: Time until the next weld's idle begins.
        photos: Photos per weld, one view each (at most 5).
        photo_delay_s: First photo after arc-off.
        photo_height: Photo height in pixels.
        photo_width: Photo width in pixels.
        fps: Nominal frame rate.
        height: Frame height in pixels.
        width: Frame width in pixels.
        audio_rate_hz: Nominal sample rate of the sound.
        block_s: Length of a block of sound.
        sensor_rate_hz: Nominal row rate; from 100 Hz on, rows come in packets of about 10 ms.
        drop_rate: Share of items that the devices lose at random.
        saturated_rows: Mean number of saturated sensor rows before an arc, as real files show them.
        nuisance: Scale of the per-session nuisances; 0 is the reference set-up.
        plate_mm: Plate thickness, or None to draw the recipe's.
        joint: `butt`, `fillet` or `plate`, or None to draw.
        travel_mm_s: Travel speed, or None to draw.
        current_a: Welding current, or None to draw.
        voltage_v: Arc voltage, or None to draw.
        recipe_pool: Half of the recipe space that sessions draw from: `train` and `test` share no recipe.
        faults: Device faults that are drawn for each session and weld: `none`, `all` or some of `DRAWN_FAULTS`.
        tally: File that notes what the live drivers handed over (`acquisition.simulated.tally`); empty for none.
    """

    seed: int = 1
    session: int = 1
    classes: tuple[str, ...] = (
        "good",
        "good",
        "porosity",
        "good",
        "spatter",
        "good",
        "lack_of_fusion",
        "good",
        "burnthrough",
    )
    severity: tuple[float, float] = (0.5, 1.0)
    idle_s: float = 3.0
    arc_s: float = 15.0
    tail_s: float = 4.0
    gap_s: float = 3.0
    photos: int = 5
    photo_delay_s: float = 2.0
    photo_height: int = 600
    photo_width: int = 800
    fps: float = 31.0
    height: int = 600
    width: int = 960
    audio_rate_hz: int = 16_000
    block_s: float = 0.02
    sensor_rate_hz: float = 9.0
    drop_rate: float = 0.0
    saturated_rows: float = 1.5
    nuisance: float = 1.0
    plate_mm: float | None = None
    joint: str | None = None
    travel_mm_s: float | None = None
    current_a: float | None = None
    voltage_v: float | None = None
    recipe_pool: RecipePool = "all"
    faults: str = "none"
    tally: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            ValueError: A setting is out of range; the message names it and the fix.
        """
        if self.seed < 0 or self.session < 0:
            raise ValueError(f"seed {self.seed}, session {self.session}: give whole numbers of at least 0")
        if not self.classes:
            raise ValueError("classes is empty: name at least one of " + ", ".join(CLASS_LABELS))
        for name in self.classes:
            if name not in CLASS_LABELS:
                raise ValueError(f"class {name!r} cannot be simulated: use one of " + ", ".join(CLASS_LABELS))
        low, high = self.severity
        if not 0 <= low <= high <= 1:
            raise ValueError(f"severity {self.severity}: give two numbers with 0 <= low <= high <= 1")
        if not 0 <= self.photos <= 5:
            raise ValueError(f"photos {self.photos}: the simulated cell has 5 views, give 0 to 5")
        for name in ("arc_s", "fps", "audio_rate_hz", "block_s", "sensor_rate_hz"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)}: give a number above 0")
        for name in ("idle_s", "tail_s", "gap_s", "photo_delay_s", "nuisance", "saturated_rows"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} {getattr(self, name)}: give 0 or more")
        if self.nuisance > 1:
            raise ValueError(f"nuisance {self.nuisance}: give 0 (reference set-up) to 1 (full spread)")
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"drop_rate {self.drop_rate}: give a share from 0 up to, not including, 1")
        if min(self.height, self.width) < 64 or min(self.photo_height, self.photo_width) < 64:
            raise ValueError(
                f"picture sizes {self.width}x{self.height}, {self.photo_width}x{self.photo_height}: "
                "give at least 64 pixels a side"
            )
        if self.idle_s < 0.5:
            raise ValueError(f"idle_s {self.idle_s}: the open circuit before the arc needs 0.5 s or more")
        fault_names(self.faults)
        if self.joint not in (None, *JOINTS):
            raise ValueError(f"joint {self.joint!r}: use butt, fillet or plate")
        if self.recipe_pool not in ("all", "train", "test"):
            raise ValueError(f"recipe_pool {self.recipe_pool!r}: use all, train or test")
        if not any(in_pool(name, self.recipe_pool) for name in self._reachable_recipes()):
            raise ValueError(
                f"recipe_pool {self.recipe_pool!r} holds no recipe with plate_mm {self.plate_mm}, joint {self.joint}, "
                f"current_a {self.current_a}: leave one of them out"
            )

    def _reachable_recipes(self) -> set[str]:
        """Name the recipes that the given plate, joint and current leave open."""
        names = set()
        for plate_mm in PLATES_MM if self.plate_mm is None else (self.plate_mm,):
            low, high = current_range_a(plate_mm)
            middles = [low + (high - low) * (band + 0.5) / len(BANDS) for band in range(len(BANDS))]
            for joint in JOINTS if self.joint is None else (self.joint,):
                for current_a in middles if self.current_a is None else (self.current_a,):
                    names.add(recipe_name(plate_mm, joint, current_a))
        return names

    @property
    def fault_names(self) -> frozenset[str]:
        """The drawn device faults by name."""
        return fault_names(self.faults)

    @property
    def rows_per_packet(self) -> int:
        """Sensor rows that arrive together."""
        return max(1, round(self.sensor_rate_hz * 0.01)) if self.sensor_rate_hz >= 100 else 1

    @property
    def block_samples(self) -> int:
        """Samples in a block of sound."""
        return max(1, round(self.block_s * self.audio_rate_hz))
