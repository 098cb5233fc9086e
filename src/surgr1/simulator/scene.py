"""The scene graph of a simulated operation: what is true at one moment, before anyone draws it.

Coordinates are fractions of the picture (x right, y down, both 0-1), so that one scene can be drawn by any
centre at any resolution. Names are canonical ontology names (lower case, spaces).
"""

from dataclasses import dataclass, field

Point = tuple[float, float]


@dataclass(frozen=True)
class Instrument:
    """One instrument in view. `tip` is where its working end is, `entry` where its shaft leaves the picture.

    `opening` 0 closed - 1 wide open; `verb`/`target` are "null verb"/"null target" when it does nothing.
    `direction` is where it moves the tissue in the picture ("upper left"), "" where the scenario has none.
    """

    tool: str
    tip: Point
    entry: Point
    opening: float = 0.3
    scale: float = 1.0
    verb: str = "null verb"
    target: str = "null target"
    direction: str = ""


@dataclass(frozen=True)
class Cholecystectomy:
    """Anatomy of the right upper abdomen as the operation changes it. Fractions are 0-1.

    `fat` covers Calot's triangle until dissected; `window` (C2) is how far the hepatocystic triangle is
    cleared; `two_structures` (C1) how clearly duct and artery stand alone; `plate` (C3) how much of the
    cystic plate (lower third of the liver bed) is bare; `detachment` how far the gallbladder is off the
    liver; `bag`: "none", "open", "closed" (gallbladder inside).
    """

    fundus: Point = (0.42, 0.25)
    neck: Point = (0.55, 0.60)
    girth: float = 0.13
    fat: float = 1.0
    two_structures: float = 0.0
    window: float = 0.0
    plate: float = 0.0
    duct_clips: int = 0
    artery_clips: int = 0
    duct_cut: bool = False
    artery_cut: bool = False
    detachment: float = 0.0
    bag: str = "none"
    adhesions: float = 0.0


@dataclass(frozen=True)
class Prostatectomy:
    """The dorsal venous complex being sutured (robot-assisted radical prostatectomy).

    `needle` is its centre, `needle_angle` in radians, `needle_in_tissue` the share of the arc inside tissue,
    `needle_emerged` whether the tip has come out on the far side, `thread_tension` 0 slack - 1 taut,
    `thread_cut` true once the suture ends are short, `loops` the throws of the knot being tied.
    """

    wound: Point = (0.5, 0.55)
    needle: Point = (0.5, 0.5)
    needle_angle: float = 0.0
    needle_in_tissue: float = 0.0
    needle_emerged: bool = False
    needle_visible: bool = True
    thread_tension: float = 0.0
    thread_cut: bool = False
    stitches: int = 0
    loops: int = 0


@dataclass(frozen=True)
class GastricBypass:
    """Upper abdomen during Roux-en-Y gastric bypass. Fractions are 0-1.

    `view` is which organs fill the field: "overview", "stomach", "omentum", "jejunum", "gastrojejunal",
    "jejunojejunal", "petersen", "mesentery". `staple_line` how far a staple line runs; `enterotomy` how far
    bowel or pouch is opened; `anastomosis` how far two lumens are joined; `defect` how open the mesenteric or
    Petersen defect is; `omentum_split` how far the omentum is divided; `dye` the methylene-blue leak test;
    `drain` a silicone drain in view.
    """

    view: str = "overview"
    staple_line: float = 0.0
    enterotomy: float = 0.0
    anastomosis: float = 0.0
    defect: float = 0.0
    omentum_split: float = 0.0
    dye: float = 0.0
    drain: bool = False
    sutures: int = 0


@dataclass(frozen=True)
class Organ:
    """One organ (or thing) of a field, with the look its procedure gives it.

    `radius` is a fraction of the picture's width. `shape`: "blob"; "tube", "fold" (an arc of thin line) and
    "thread", all as long as the radius in both directions from the centre at `angle` (radians). `parts` 2
    draws it twice, one radius and a half to each side, with one mask id: two connected components.
    `surface`: "smooth", "veined" or "fat".
    """

    name: str
    centre: Point
    radius: float
    colour: tuple[int, int, int] = (190, 110, 100)
    shape: str = "blob"
    angle: float = 0.0
    parts: int = 1
    surface: str = "smooth"


@dataclass(frozen=True)
class Field:
    """What is in view in a procedure that has no drawing of its own: organs from back to front on a plain
    backdrop (mask id 0).

    `camera` is how far the camera's motion (`Scene.motion`) has gone: 0 the view is still off what it moves
    to, 1 it is there. `deeds` tells whether the instruments' verbs and targets are known; where they are
    not, they stand at their defaults and say nothing.
    """

    organs: tuple[Organ, ...]
    backdrop: tuple[int, int, int] = (190, 110, 100)
    camera: float = 0.0
    deeds: bool = True
    scenario: str = ""


Anatomy = Cholecystectomy | Prostatectomy | GastricBypass | Field


@dataclass(frozen=True)
class Effects:
    """What degrades the view, each 0-1."""

    smoke: float = 0.0
    blood: float = 0.0
    fluid: float = 0.0
    blur: float = 0.0


@dataclass(frozen=True)
class Scene:
    """One moment of an operation with its complete truth.

    `seconds` from the start of the recording; `seed` fixes textures so that frames of one operation look
    alike; `phase`, `step`, `action` are canonical names ("" where the procedure has none); `cvs` is (C1, C2,
    C3) or None; `motion` is the camera's ("up", "zoom-in", "static", ...), "" where nobody labels it.
    """

    procedure: str
    seconds: float
    phase: str
    anatomy: Anatomy
    instruments: tuple[Instrument, ...] = ()
    step: str = ""
    action: str = ""
    cvs: tuple[bool, bool, bool] | None = None
    effects: Effects = field(default_factory=Effects)
    seed: int = 0
    motion: str = ""


@dataclass(frozen=True)
class Centre:
    """How one hospital's pictures and habits differ. Names of simulated centres start with "sim-".

    `temperature` shifts colour (-1 cold/blue … +1 warm/amber), `illumination` multiplies brightness,
    `vignette` is the radius of the round endoscope image as a fraction of the picture's half diagonal (>=
    1.2: none), `roll` turns the camera (radians), `zoom` > 1 is closer, `noise` sensor noise (0-1),
    `mirrored` swaps port sides, `size` (width, height) in pixels, `shaft` the colour of instrument shafts
    (RGB), `jpeg` the quality of stored frames where the layout stores JPEG. `tempo` scales durations;
    `habits` are named weights the scheduler reads (tool choice, phase order).
    """

    name: str
    size: tuple[int, int] = (448, 252)
    temperature: float = 0.0
    illumination: float = 1.0
    vignette: float = 1.3
    roll: float = 0.0
    zoom: float = 1.0
    noise: float = 0.03
    mirrored: bool = False
    shaft: tuple[int, int, int] = (70, 74, 80)
    jpeg: int = 92
    tempo: float = 1.0
    habits: dict[str, float] = field(default_factory=dict)
