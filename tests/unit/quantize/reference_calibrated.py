"""GPTQ, AWQ and Hadamard matrices once more, slowly and in double precision, written from the formulas alone.

Inputs are matrices [tokens, K] here, and errors are those of the outputs themselves; no Hessian stands in for them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from phiforge.quantize.spec import QuantSpec
from unit.quantize.reference import nearest_codes, rtn_block

Matrix = NDArray[np.float64]
Codes = NDArray[np.int64]


def gptq(weight: Matrix, inputs: Matrix, spec: QuantSpec, *, act_order: bool, damping: float) -> tuple[Codes, Matrix]:
    """GPTQ as in the paper's algorithm 1, without its blocks: the factor of the inverse, and every error pushed on.

    Returns:
        Codes [N, K] and the values that they stand for.
    """
    hessian = inputs.T @ inputs
    hessian += damping * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian[order][:, order])).T
    current, codes, values = weight.copy(), np.zeros(weight.shape, np.int64), np.zeros(weight.shape)
    size = weight.shape[1] if spec.per_channel else spec.block_size
    static = act_order or spec.per_channel
    parameters = {}
    for step, column in enumerate(order):
        for row in range(len(weight)):
            first = column - column % size
            if (row, first) not in parameters:
                source = weight if static else current
                block = [float(value) for value in source[row, first : first + size]]
                parameters[row, first] = rtn_block(block, spec.bits, symmetric=spec.symmetric)[1:]
            scale, zero = parameters[row, first]
            code = nearest_codes([float(current[row, column])], scale, zero, spec.bits)[0]
            codes[row, column], values[row, column] = code, (code - zero) * scale
            error = (current[row, column] - values[row, column]) / upper[step, step]
            current[row, order[step + 1 :]] -= error * upper[step, step + 1 :]
    return codes, values


def output_error(weight: NDArray[np.floating], values: NDArray[np.floating], inputs: Matrix) -> float:
    """Squared difference of the outputs, over all tokens and rows."""
    difference = (values.astype(np.float64) - weight.astype(np.float64)) @ inputs.T
    return float(np.sum(difference * difference))


def local_error(weight: NDArray[np.floating], values: NDArray[np.floating], inputs: Matrix, size: int) -> Matrix:
    """The output error of each block [N, K/size], as if the other blocks had none."""
    errors = np.zeros((len(weight), weight.shape[1] // size))
    for row in range(len(weight)):
        for block in range(errors.shape[1]):
            inside = slice(block * size, (block + 1) * size)
            one = slice(row, row + 1)
            errors[row, block] = output_error(weight[one, inside], values[one, inside], inputs[:, inside])
    return errors


def rtn_values(weight: Matrix, spec: QuantSpec) -> Matrix:
    """What rounding to nearest makes of a weight."""
    size = weight.shape[1] if spec.per_channel else spec.block_size
    values = []
    for block in weight.reshape(-1, size):
        codes, scale, zero = rtn_block([float(value) for value in block], spec.bits, symmetric=spec.symmetric)
        values.append([(code - zero) * scale for code in codes])
    return np.array(values).reshape(weight.shape)


def awq_scales(inputs: Matrix, alpha: float) -> Matrix:
    """The scales of input channels for one alpha, from the root mean square of the inputs."""
    powers = np.sqrt(np.mean(inputs**2, axis=0)) ** alpha
    return np.asarray(powers / math.sqrt(float(powers.max() * powers.min())))


def awq_error(weights: list[NDArray[np.floating]], scales: Matrix, inputs: Matrix, spec: QuantSpec) -> float:
    """AWQ's objective: the output error of all weights, rounded after scaling."""
    exact = [weight.astype(np.float64) for weight in weights]
    return sum(output_error(weight, rtn_values(weight * scales, spec) / scales, inputs) for weight in exact)


def sylvester_entry(row: int, column: int) -> int:
    """The entry of a Sylvester matrix: -1 where the indices share an odd number of bits."""
    return -1 if (row & column).bit_count() % 2 else 1


def paley_entry(row: int, column: int, prime: int) -> int:
    """The entry of the Paley matrix of order prime + 1, by Euler's criterion."""
    if row == column or row == 0:
        return 1
    if column == 0:
        return -1
    return 1 if pow(row - column, (prime - 1) // 2, prime) == 1 else -1
