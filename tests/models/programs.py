"""Matrix products of a traced program."""

import numpy as np


def products(jaxpr):
    """Yield, for every matrix product of a program, the dimensions `(m, n, k)` of one batch entry and the multiply-adds."""
    for equation in jaxpr.eqns:
        # Of the branches by platform, take the default one.
        platforms = equation.params.get("branches_platforms")
        branches = () if platforms is None else [equation.params["branches"][platforms.index(None)]]
        for value in (*equation.params.values(), *branches):
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from products(getattr(inner, "jaxpr", inner))
        if equation.primitive.name == "dot_general":
            (contracting, _), (batching, _) = equation.params["dimension_numbers"]
            left, right = (variable.aval for variable in equation.invars)
            depth = int(np.prod([left.shape[axis] for axis in contracting], dtype=int))
            batch = int(np.prod([left.shape[axis] for axis in batching], dtype=int))
            sides = (left.size // depth // batch, right.size // depth // batch, depth)
            yield sides, batch * int(np.prod(sides, dtype=int))
        elif equation.primitive.name == "conv_general_dilated":
            height, width, channels, _ = equation.invars[1].aval.shape
            depth, out = height * width * channels, equation.outvars[0].aval
            yield (out.size // out.shape[-1], out.shape[-1], depth), out.size * depth
