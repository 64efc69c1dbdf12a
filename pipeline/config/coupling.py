"""The model of `coupling:`: which coupling, how sharp, of which cost, and which options exclude each other."""

import importlib
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from flowpairs.pipeline.base.errors import InputError
from flowpairs.pipeline.base.grammar import PREFIX, parse_formula
from flowpairs.pipeline.config.strict import Strict

Cost = Literal["dot", "sqeuclidean", "geodesic", "precomputed"] | Callable[..., Any]
Regularisation = Annotated[float, Field(ge=0, le=1e30)]
LEAST_EPS = 1e-9  # smallest relative epsilon but 0
NAMED = "dot", "sqeuclidean", "geodesic", "precomputed"
OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class CouplingConfig(Strict):
    """One coupling problem per block of `n` source rows."""

    alternatives = (("rel_eps", "eps", "sharpness"),)

    method: Literal["independent", "exact", "sinkhorn", "semidiscrete", "imported"] = "sinkhorn"
    n: int = Field(ge=1)
    cost: str = "dot"  # or sqeuclidean, geodesic, precomputed, keops:FORMULA or module:function; see docs/solver.md
    neighbours: int = Field(default=15, ge=2)  # per point, for cost geodesic: see pipeline/ot/costs/geodesic.py
    heat: PositiveFloat = 50.0  # time that heat spreads on that graph: more is smoother
    matrix: str | None = None  # .npy for cost precomputed, source ids by data ids
    matrix_fingerprint: str | None = None  # sha256 that it must have; the resolved config holds what was read
    table: str | None = None  # pairs made elsewhere, for method imported: see pipeline/blocks/imported_pairs.py
    table_fingerprint: str | None = None  # sha256 that its columns must have; the resolved config holds what was read
    rel_eps: Regularisation | None = None  # eps / std(C); by default 0.1, for semidiscrete 0
    eps: Regularisation | None = None  # absolute, in the units of the cost; 0 only for semidiscrete
    sharpness: float | None = Field(default=None, gt=0, lt=1)  # E for which to find eps: 0 sharp, 1 blurred
    tol: float = Field(default=1e-3, gt=0, lt=2)  # L1 error of the marginals, which is never above 2
    chi2: float = Field(default=0.05, gt=0, lt=1)  # semidiscrete: chi-square error of the data's masses
    condition: Literal["blind", "class", "extended"] = "blind"  # semidiscrete: see pipeline/blocks/conditions.py
    beta: PositiveFloat | None = None  # weight of the conditions in the extended cost
    condition_file: str | None = None  # .npy of one row of numbers per datum, for condition extended; else the labels
    condition_fingerprint: str | None = None  # sha256 that it must have; the resolved config holds what was read
    max_passes: PositiveInt = 20_000  # over the n x m entries before giving up
    start: str | None = None  # a pair store over the same data, whose potentials the solve starts from
    start_fingerprint: str | None = None  # sha256 of those potentials; the resolved config holds what was read
    resample: Literal["repeat"] | None = None  # n above the data's size: every datum in every block, weight 1/N
    backend: Literal["auto", "torch", "keops"] = "auto"  # computes the passes: see docs/solver.md
    on_unconverged: Literal["fail", "record"] = "fail"

    @model_validator(mode="before")
    @classmethod
    def _default_epsilon(cls, value: Any) -> Any:
        if isinstance(value, dict) and not any(value.get(key) is not None for key in cls.alternatives[0]):
            default = {"sinkhorn": 0.1, "semidiscrete": 0.0}.get(str(value.get("method", "sinkhorn")))
            return value if default is None else value | {"rel_eps": default}
        return value

    @model_validator(mode="after")
    def _one_epsilon(self) -> "CouplingConfig":
        given = [key for key in self.alternatives[0] if getattr(self, key) is not None]
        if self.method == "semidiscrete":
            self._semidiscrete()
        elif self.condition != "blind":
            raise ValueError(f"condition={self.condition!r} belongs to method semidiscrete; remove it")
        elif 0 in (self.rel_eps, self.eps):
            raise ValueError(
                f"{given[0]}=0: an unregularised plan is method exact or semidiscrete; give a positive one"
            )
        if self.method == "sinkhorn" and self.n == 1:
            raise ValueError("n=1: a block of one row leaves nothing to couple; give a larger n, or method independent")
        if self.rel_eps and self.rel_eps < LEAST_EPS:
            raise ValueError(f"rel_eps={self.rel_eps:g}: nothing resolves costs so finely; give {LEAST_EPS:g} or more")
        if self.method != "semidiscrete" and self.chi2 != type(self).model_fields["chi2"].default:
            raise ValueError("chi2 belongs to method semidiscrete; remove it")
        if self.method != "semidiscrete" and (self.beta is not None or self.condition_file is not None):
            raise ValueError("beta and condition_file belong to method semidiscrete; remove them")
        if self.method not in ("sinkhorn", "semidiscrete") and self.start is not None:
            raise ValueError(f"start belongs to methods sinkhorn and semidiscrete, not to {self.method}; remove it")
        if self.method not in ("sinkhorn", "semidiscrete") and given:
            raise ValueError(f"{' and '.join(given)} belong to method sinkhorn, not to {self.method}; remove them")
        if self.method != "sinkhorn" and self.backend != "auto":
            raise ValueError(f"backend belongs to method sinkhorn, not to {self.method}; remove it")
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

    def _semidiscrete(self) -> None:
        """Refuse options that do not go with method semidiscrete."""
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
        if self.cost.startswith(PREFIX):
            try:
                parse_formula(self.cost.removeprefix(PREFIX))
            except ValueError as error:
                raise ValueError(f"cost={self.cost!r}: {error}") from None
        elif self.cost not in NAMED and not OWN.fullmatch(self.cost):
            raise ValueError(
                f"cost={self.cost!r}: unknown; give {', '.join(NAMED)}, {PREFIX}FORMULA or module:function"
            )

    @property
    def imports_cost(self) -> bool:
        """Whether the cost is a function of the user's, whose module has to be imported."""
        return self.cost not in NAMED and not self.cost.startswith(PREFIX)

    def cost_function(self) -> Cost:
        """Return the cost to be minimised: a name, a formula, or the function named, whose module is imported.

        Raises:
            InputError: no such module or function.
        """
        if not self.imports_cost:
            return cast("Cost", self.cost)
        module, _, name = self.cost.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except Exception as error:  # a user's module may raise anything
            raise InputError(
                f"coupling.cost={self.cost!r}: cannot be imported ({type(error).__name__}: {error}); "
                "put its module where the job runs or on PYTHONPATH"
            ) from error
        if not callable(function):
            raise InputError(f"coupling.cost={self.cost!r}: is no function; give one that takes two tiles of features")
        return cast("Cost", function)
