"""The model of `coupling:`: which coupling, how sharp, of which cost, and which options exclude each other."""

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, model_validator

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.grammar import PREFIX, parse_formula
from flowpairs.pipeline.config.own_code import OWN, import_own
from flowpairs.pipeline.config.strict import Strict

Cost = Literal["dot", "sqeuclidean", "geodesic", "precomputed"] | Callable[..., Any]
Regularisation = Annotated[float, Field(ge=0, le=1e30)]
MOST_STEPS = 10_000  # of a solver: more than any flow needs
LEAST_EPS = 1e-9  # smallest relative epsilon but 0
NAMED = "dot", "sqeuclidean", "geodesic", "precomputed"
# Keys that method reflow alone has: which flow, and how its samples are drawn.
REFLOW = "run", "run_fingerprint", "solver", "steps", "rtol", "atol", "guidance", "batch", "recouple"


class RelaxConfig(Strict):
    """The prices of missing a marginal: tau of the penalty tau KL(marginal of the plan | weights)."""

    source: float = Field(default=math.inf, gt=0)
    """Price of missing the source's weights; .inf keeps them. [std of the cost]"""
    target: float = Field(default=math.inf, gt=0)
    """Price of missing the data's weights; .inf keeps them. [std of the cost]"""

    @model_validator(mode="after")
    def _one_finite(self) -> "RelaxConfig":
        if self.source == self.target == math.inf:
            raise ValueError("both prices are infinite, which keeps both marginals; give one, or leave relax out")
        return self


def _is_true(value: Any) -> bool:
    """Return whether a field of type bool takes a value as true, as it does `1`."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return False


class CouplingConfig(Strict):
    """One coupling problem per block of `n` source rows."""

    alternatives = (("rel_eps", "eps", "sharpness"),)
    belonging: ClassVar[dict[str, tuple[str, ...]]] = {"method": REFLOW}

    method: Literal["independent", "exact", "sinkhorn", "semidiscrete", "imported", "reflow"] = "sinkhorn"
    """How pairs are coupled: by an entropic plan of each block, one potential for all noise, a permutation, at random,
    as a table says, or as a trained flow leads noise to samples."""
    n: int = Field(ge=1)
    """Source rows of a block, which is one coupling problem; larger is better and costs its square. [rows]"""
    cost: str = "dot"
    """The cost to minimise: dot, sqeuclidean, geodesic, precomputed, keops:FORMULA, or a function of your own as
    module:function."""
    neighbours: int = Field(default=15, ge=2)
    """Nearest neighbours of a point in the graph of cost geodesic. [points]"""
    heat: PositiveFloat = 50.0
    """Time that heat spreads on the graph of cost geodesic: more is smoother. [1]"""
    matrix: str | None = None
    """The .npy file of cost precomputed, source ids by data ids."""
    matrix_fingerprint: str | None = None
    """SHA-256 that the matrix must have; the resolved config holds what was read."""
    table: str | None = None
    """The table of pairs that were made elsewhere, for method imported."""
    table_fingerprint: str | None = None
    """SHA-256 that the table's columns must have; the resolved config holds what was read."""
    rel_eps: Regularisation | None = None
    """Regularisation in units of the cost's standard deviation; without any of the three, 0.1, and 0 for semidiscrete.
    [std of the cost]"""
    eps: Regularisation | None = None
    """Regularisation in units of the cost; 0 is for method semidiscrete alone. [cost]"""
    sharpness: float | None = Field(default=None, gt=0, lt=1)
    """Normalised entropy E for which the regularisation is found: near 0 a permutation, near 1 independent
    pairs. [1]"""
    relax: RelaxConfig | None = None
    """Prices at which an unbalanced plan may miss its marginals; null keeps both."""
    regions: int | None = Field(default=None, ge=2)
    """Regions into which each block is cut and which are coupled apart, for blocks whose square is too dear; null:
    the block is coupled as a whole. [regions]"""
    tol: float = Field(default=1e-3, gt=0, lt=2)
    """L1 error of the marginals at which a block's solve is done. [mass]"""
    chi2: float = Field(default=0.05, ge=1e-6, lt=1)
    """Chi-square error of the data's masses at which a semi-discrete solve is done. [1]"""
    condition: Literal["blind", "class", "extended"] = "blind"
    """Whether potentials of method semidiscrete depend on a condition: on none, on the class, or on rows of numbers."""
    beta: PositiveFloat | None = None
    """Weight of the conditions in the cost of condition extended. [1]"""
    condition_file: str | None = None
    """The .npy file of one row of numbers per datum, for condition extended; without it, the labels."""
    condition_fingerprint: str | None = None
    """SHA-256 that the conditions must have; the resolved config holds what was read."""
    max_passes: PositiveInt = 20_000
    """Passes over a block's n x m entries before its solve gives up. [passes]"""
    start: str | None = None
    """A pair store over the same data, whose potentials the solve starts from."""
    start_fingerprint: str | None = None
    """SHA-256 that those potentials must have; the resolved config holds what was read."""
    resample: Literal["repeat"] | None = None
    """`repeat` puts every datum into every block, for an n above the number of data."""
    backend: Literal["auto", "torch", "keops", "triton"] = "auto"
    """What computes the passes over the entries; auto chooses by device and cost."""
    run: str | None = None
    """The training run, or a checkpoint of one, whose flow makes the data of method reflow."""
    run_fingerprint: str | None = None
    """SHA-256 that the run's network must have; the resolved config holds what was read."""
    solver: Literal["dopri5", "euler", "midpoint", "heun", "jump"] = "dopri5"
    """The solver by which method reflow draws samples; jump: the own steps of a MeanFlow model."""
    steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    """Number of equal steps of that solver; null for dopri5, which chooses its steps. [steps]"""
    rtol: PositiveFloat = 1e-5
    """Relative tolerance of dopri5, for method reflow. [1]"""
    atol: PositiveFloat = 1e-5
    """Absolute tolerance of dopri5, for method reflow. [units of the data]"""
    guidance: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Scale of classifier-free guidance of reflow's samples; 1: the label's own velocity. [1]"""
    batch: PositiveInt = 512
    """Samples of method reflow computed at once; dopri5 chooses its steps for a batch. [samples]"""
    recouple: bool = False
    """Whether the samples of a block of method reflow are coupled with its noise anew, by an entropic plan, before
    they are written."""
    on_unconverged: Literal["fail", "record"] = "fail"
    """What a block that did not converge does: it fails the job, or it is recorded in blocks.parquet."""

    @model_validator(mode="before")
    @classmethod
    def _default_epsilon(cls, value: Any) -> Any:
        if isinstance(value, dict) and not any(value.get(key) is not None for key in cls.alternatives[0]):
            method = "sinkhorn" if _is_true(value.get("recouple")) else str(value.get("method", "sinkhorn"))
            default = {"sinkhorn": 0.1, "semidiscrete": 0.0}.get(method)
            return value if default is None else value | {"rel_eps": default}
        return value

    @model_validator(mode="after")
    def _one_epsilon(self) -> "CouplingConfig":
        given = [key for key in self.alternatives[0] if getattr(self, key) is not None]
        self._reflow()
        if self.method == "semidiscrete":
            self._semidiscrete()
        elif self.condition != "blind":
            raise ValueError(f"condition={self.condition!r} belongs to method semidiscrete; remove it")
        elif 0 in (self.rel_eps, self.eps):
            raise ValueError(
                f"{given[0]}=0: an unregularised plan is method exact or semidiscrete; give a positive one"
            )
        if self.entropic and self.n == 1:
            raise ValueError("n=1: a block of one row leaves nothing to couple; give a larger n, or method independent")
        if self.rel_eps and self.rel_eps < LEAST_EPS:
            raise ValueError(f"rel_eps={self.rel_eps:g}: nothing resolves costs so finely; give {LEAST_EPS:g} or more")
        if self.method != "semidiscrete" and self.chi2 != type(self).model_fields["chi2"].default:
            raise ValueError("chi2 belongs to method semidiscrete; remove it")
        if self.method != "semidiscrete" and (self.beta is not None or self.condition_file is not None):
            raise ValueError("beta and condition_file belong to method semidiscrete; remove them")
        if self.method not in ("sinkhorn", "semidiscrete") and self.start is not None:
            raise ValueError(f"start belongs to methods sinkhorn and semidiscrete, not to {self.method}; remove it")
        if not self.entropic and self.method != "semidiscrete" and given:
            otherwise = ", or give recouple=true" if self.method == "reflow" else ""
            raise ValueError(
                f"{' and '.join(given)} belong to method sinkhorn, not to {self.method}; remove them{otherwise}"
            )
        if self.relax is not None:
            self._relaxed()
        if self.regions is not None:
            self._in_regions(self.regions)
        if not self.entropic and self.method != "semidiscrete" and self.backend != "auto":
            raise ValueError(f"backend belongs to methods sinkhorn and semidiscrete, not to {self.method}; remove it")
        if (self.method == "imported") != (self.table is not None):
            raise ValueError("table belongs to method imported, and that method needs one; give both or neither")
        if self.method == "imported" and self.resample is not None:
            raise ValueError("resample does not belong to method imported, whose table says which data; remove it")
        if self.method == "imported" and self.cost != "dot":
            raise ValueError("cost does not belong to method imported, which computes no coupling; remove it")
        if (self.cost == "precomputed") != (self.matrix is not None):
            raise ValueError("matrix is what cost precomputed looks up; give both or neither")
        if self.cost != "geodesic" and (self.neighbours, self.heat) != (15, 50.0):
            raise ValueError("neighbours and heat belong to cost geodesic; remove them")
        self._check_cost_name()
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} given; keep one of rel_eps (relative to std(C)), eps, sharpness")
        return self

    def _reflow(self) -> None:
        """Refuse keys of method reflow for other methods, and what does not go with that method."""
        fields = type(self).model_fields
        if self.method != "reflow":
            if strange := [key for key in REFLOW if getattr(self, key) != fields[key].default]:
                raise ValueError(f"{' and '.join(strange)} belong to method reflow, not to {self.method}; remove them")
            return
        if self.run is None:
            raise ValueError("method reflow needs run, the training run whose flow makes the data; give coupling.run")
        if self.solver == "dopri5" and self.steps is not None:
            raise ValueError(f"steps={self.steps}: dopri5 chooses its own; leave them out, or give solver=euler")
        if self.solver != "dopri5" and self.steps is None:
            raise ValueError(f"solver={self.solver}: takes equal steps; say how many, as in coupling.steps=16")
        if self.resample is not None:
            raise ValueError("resample does not belong to method reflow, which makes its data; remove it")
        if self.cost != "dot" and not self.recouple:
            raise ValueError("cost does not belong to method reflow, unless with recouple=true; remove it")

    def _relaxed(self) -> None:
        """Refuse options that do not go with relaxed marginals."""
        if self.method != "sinkhorn":
            raise ValueError(f"relax belongs to method sinkhorn, not to {self.method}; remove it")
        if self.cost == "dot":
            raise ValueError(
                "relax: cost 'dot' leaves out |x|^2, which counts where marginals are free; give cost=sqeuclidean"
            )
        if self.sharpness is not None:
            raise ValueError("relax: sharpness is found for kept marginals; give rel_eps or eps instead")

    def _in_regions(self, regions: int) -> None:
        """Refuse options that do not go with regions."""
        if self.method != "sinkhorn" or self.cost not in ("dot", "sqeuclidean"):
            raise ValueError("regions belong to method sinkhorn with cost dot or sqeuclidean; remove them")
        keys = "sharpness", "relax", "start", "resample"
        if given := [key for key in keys if getattr(self, key) is not None]:
            raise ValueError(f"{given[0]} does not go with regions, which have no potential in common; remove one")
        if 2 * regions > self.n:
            raise ValueError(f"regions={regions}: of n={self.n} rows, and a region takes two or more; give fewer")

    def _semidiscrete(self) -> None:
        """Refuse options that do not go with method semidiscrete."""
        if self.backend == "keops":
            raise ValueError("backend='keops' does not serve method semidiscrete; give auto, torch or triton")
        if self.sharpness is not None:
            raise ValueError("sharpness belongs to method sinkhorn; give rel_eps or eps, 0 being the sharpest")
        if self.cost != "dot":
            raise ValueError(f"cost={self.cost!r}: method semidiscrete searches inner products; give dot")
        if self.condition == "extended" and self.beta is None:
            raise ValueError("condition='extended' needs beta, the weight of the conditions in the cost; give one")
        if self.condition != "extended" and (self.beta is not None or self.condition_file is not None):
            raise ValueError("beta and condition_file belong to condition extended; remove them")

    def _check_cost_name(self) -> None:
        """Refuse a cost that is no name, formula or function."""
        if self.formula is not None:
            try:
                parse_formula(self.formula)
            except ValueError as error:
                raise ValueError(f"cost={self.cost!r}: {error}") from None
        elif self.cost not in NAMED and not OWN.fullmatch(self.cost):
            raise ValueError(
                f"cost={self.cost!r}: unknown; give {', '.join(NAMED)}, {PREFIX}FORMULA or module:function"
            )

    @property
    def entropic(self) -> bool:
        """Whether a block's plan is found by Sinkhorn's algorithm, be it of data or of a flow's samples."""
        return self.method == "sinkhorn" or self.recouple

    @property
    def formula(self) -> str | None:
        """The text of a cost that is a formula; None where it is none."""
        return self.cost.removeprefix(PREFIX) if self.cost.startswith(PREFIX) else None

    @property
    def imports_cost(self) -> bool:
        """Whether the cost is a function of the user's, whose module has to be imported."""
        return self.cost not in NAMED and self.formula is None

    def cost_function(self) -> Cost:
        """Return the cost to be minimised: a name, a formula, or the function named, whose module is imported.

        Raises:
            InputError: no such module or function.
        """
        if not self.imports_cost:
            return cast("Cost", self.cost)
        function = import_own("coupling.cost", self.cost)
        if not callable(function):
            raise InputError(f"coupling.cost={self.cost!r}: is no function; give one that takes two tiles of features")
        return cast("Cost", function)
