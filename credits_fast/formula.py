"""Price formulas: text is parsed once into closures over exact decimals, and nothing else runs.

The language (source: the reference Credit SDK's documented grammar, with its precedences):

    formula    = ternary
    ternary    = or [ "?" ternary ":" ternary ]
    or         = and { "||" and }
    and        = equality { "&&" equality }
    equality   = relation [ ("==" | "!=") relation ]
    relation   = sum [ ("<" | "<=" | ">" | ">=") sum ]
    sum        = product { ("+" | "-") product }
    product    = unary { ("*" | "/") unary }
    unary      = ("!" | "-" | "+") unary | primary
    primary    = number | "{" name "}" | "(" ternary ")"

There is no name lookup, no call, no attribute, no power and no host expression of any kind. A
condition is true when it is not zero; `&&`, `||` and `? :` evaluate only what they need, and `&&`
and `||` give back one of their operands; a comparison used as a number counts 1 or 0. A formula
whose value is a comparison can never be a price and is refused when it is parsed.

Arithmetic has 28 significant digits and exponents up to 30, so that a value has a bounded size and
an overflow is an error; so is every division by zero, wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import (
    ROUND_HALF_UP,
    Context,
    Decimal,
    DecimalException,
    DivisionByZero,
    InvalidOperation,
    Overflow,
)
from math import isfinite
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from credits_fast.amounts import MICROS_MAX, to_credits
from credits_fast.errors import FormulaEvaluationError, MissingVariableError
from credits_fast.exact import EXACT

__all__ = ["DEPTH_MAX", "LENGTH_MAX", "NODES_MAX", "Formula", "FormulaError", "parse", "to_price"]

LENGTH_MAX: Final = 512
"""Characters in a formula."""
NODES_MAX: Final = 64
"""Operands and operators in a formula."""
DEPTH_MAX: Final = 16
"""Parentheses, signs and conditions inside one another."""

_CONTEXT: Final = Context(
    prec=28,
    Emax=30,
    Emin=-30,
    traps=[DivisionByZero, InvalidOperation, Overflow],
)
_add, _subtract = _CONTEXT.add, _CONTEXT.subtract
_multiply, _divide = _CONTEXT.multiply, _CONTEXT.divide
_CENT: Final = Decimal("0.01")
_PRICE_MAX: Final = to_credits(MICROS_MAX)
_ZERO: Final = Decimal(0)
_ONE: Final = Decimal(1)
_NAN: Final = Decimal("NaN")
_INT_MAX: Final = 10**30  # the largest exponent of the context
_VARIABLE_EXPONENT_MAX: Final = 30
_LITERAL_EXPONENT_MAX: Final = 400  # any double can be written; computing with it may overflow

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_PLACEHOLDER: Final = re.compile(r"\{([^}]*)\}")
_CHARACTERS: Final = re.compile(r"[A-Za-z0-9_+\-*/(){}.?:<>=!&|\s]*", re.ASCII)
_TOKEN: Final = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|\{(?P<name>[A-Za-z][A-Za-z0-9_]*)\}"
    r"|(?P<operator><=|>=|==|!=|&&|\|\||[-+*/<>?:!()])",
    re.ASCII,
)

_Value: TypeAlias = Decimal | bool
_Values: TypeAlias = Sequence[Decimal]
_Evaluate: TypeAlias = Callable[[_Values], _Value]
_Kind: TypeAlias = Literal["number", "boolean", "either"]


class FormulaError(ValueError):
    """The text is not a formula.

    Attributes:
        rule: A stable name of the broken rule, such as `variable_name` or `syntax`.
        subject: The part of the text that breaks it, "" where it is the whole.
    """

    def __init__(self, rule: str, message: str, subject: str = "") -> None:
        self.rule = rule
        self.subject = subject
        super().__init__(message)


class Formula:
    """A parsed formula; immutable, safe to share between tasks.

    Attributes:
        text: The formula as it was written.
        variables: The names it uses, once each, in order of first appearance.

    Example:
        >>> parse("{token} * 0.001 + 10").evaluate({"token": 3456})
        Decimal('13.456')
    """

    __slots__ = ("_evaluate", "text", "variables")

    def __init__(self, text: str, variables: tuple[str, ...], evaluate: _Evaluate) -> None:
        self.text = text
        self.variables = variables
        self._evaluate = evaluate

    def __repr__(self) -> str:
        return f"Formula({self.text!r})"

    def evaluate(self, variables: Mapping[str, Any]) -> Decimal:
        """The exact value, not rounded and possibly negative.

        Args:
            variables: Finite numbers by name: int, Decimal, or float (taken as the decimal number
                that Python prints for it). Names the formula does not use are ignored.

        Raises:
            MissingVariableError: A name of the formula is absent, even in a branch not taken.
            FormulaEvaluationError: A value is no finite number, a division by zero, an overflow.
        """
        try:
            values = [
                Decimal(value)
                if type(value := variables[name]) is int and -_INT_MAX < value < _INT_MAX
                else self._number(name, value, variables)
                for name in self.variables
            ]
            value = self._evaluate(values)
        except KeyError as error:
            raise self._missing(variables) from error
        except DecimalException as error:
            kind = "nan" if isinstance(error, InvalidOperation) else "not_finite"
            raise FormulaEvaluationError(self.text, variables, _cause(error), kind) from error
        if isinstance(value, bool):
            cause = "the value is a comparison, not a number"
            raise FormulaEvaluationError(self.text, variables, cause, "not_a_number_type")
        return value

    def _missing(self, variables: Mapping[str, Any]) -> MissingVariableError:
        name = next(name for name in self.variables if name not in variables)
        return MissingVariableError(self.text, name, list(variables))

    def _number(self, name: str, value: object, variables: Mapping[str, Any]) -> Decimal:
        """A value that is not simply a small int, which the caller has handled."""
        if type(value) is float and isfinite(value):
            return Decimal(repr(value))
        if isinstance(value, Decimal) and value.is_finite():
            if not value:
                return _ZERO
            if abs(value.adjusted()) <= _VARIABLE_EXPONENT_MAX:
                return _CONTEXT.plus(value)  # of bounded size, where the formula is the variable
        problem = f"variable {name!r} is not a finite number of ordinary size"
        raise FormulaEvaluationError(self.text, variables, problem, "invalid_variable")


def to_price(formula: Formula, value: Decimal, variables: Mapping[str, Any]) -> Decimal:
    """The value as a price: negative becomes 0, then half-up to two places on the exact decimal.

    The rule is the reference's, except that it rounds binary fractions and so loses half cents.

    Raises:
        FormulaEvaluationError: The price is beyond the largest amount.

    Example:
        >>> to_price(parse("{x}"), Decimal("1.005"), {})
        Decimal('1.01')
    """
    if value <= 0:
        return _ZERO
    if value > _PRICE_MAX:
        cause = f"the price is beyond {_PRICE_MAX:,.0f} credits"
        raise FormulaEvaluationError(formula.text, variables, cause, "not_finite")
    return value.quantize(_CENT, ROUND_HALF_UP, EXACT)


def placeholders(text: str) -> tuple[str, ...]:
    """The well-formed variable names in a text, once each, in order of first appearance."""
    names = (match.group(1) for match in _PLACEHOLDER.finditer(text))
    return tuple(dict.fromkeys(name for name in names if _NAME.fullmatch(name)))


def parse(text: str) -> Formula:
    """The formula of a text.

    Raises:
        FormulaError: The text breaks the grammar or a limit.
    """
    _screen(text)
    parser = _Parser(text)
    node = parser.formula()
    if node.kind == "boolean":
        raise FormulaError("not_a_number", "the value is a comparison and can never be a price")
    return Formula(text, parser.variables, node.evaluate)


def _cause(error: DecimalException) -> str:
    if isinstance(error, DivisionByZero):
        return "division by zero"
    if isinstance(error, Overflow):
        return "the value is too large"
    return "the value is not defined (zero divided by zero)"


# --- checks on the text, in the reference's order -----------------------------------------------


def _screen(text: str) -> None:
    if not text.strip():
        raise FormulaError("empty", "the formula is empty")
    if len(text) > LENGTH_MAX:
        raise FormulaError("too_long", f"the formula is longer than {LENGTH_MAX} characters")
    _balanced(text, "(", ")", "paren")
    _balanced(text, "{", "}", "brace")
    for match in _PLACEHOLDER.finditer(text):
        name = match.group(1)
        if not name.strip():
            raise FormulaError("variable_empty", "a placeholder {} names no variable")
        if not _NAME.fullmatch(name):
            problem = f"unknown variable name {name!r} (letters, digits and _, a letter first)"
            raise FormulaError("variable_name", problem, name)
    allowed = _CHARACTERS.match(text)
    if allowed is None or allowed.end() != len(text):
        character = text[allowed.end() if allowed else 0]
        raise FormulaError("characters", f"character {character!r} is not allowed", character)


def _balanced(text: str, opening: str, closing: str, what: str) -> None:
    depth = 0
    for character in text:
        depth += (character == opening) - (character == closing)
        if depth < 0:
            raise FormulaError(f"{what}_extra_close", f"a {closing!r} closes nothing")
    if depth:
        raise FormulaError(f"{what}_unclosed", f"a {opening!r} is never closed")


# --- the parser: one method a rule of the grammar -----------------------------------------------


class _Token(NamedTuple):
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class _Node:
    kind: _Kind
    evaluate: _Evaluate


_END: Final = _Token("end", "end of the formula")


class _Parser:
    def __init__(self, text: str) -> None:
        self.variables = placeholders(text)
        self._tokens = _tokens(text)
        self._at = 0
        self._nodes = 0
        self._depth = 0

    def formula(self) -> _Node:
        node = self._ternary()
        if self._peek() is not _END:
            raise self._unexpected()
        return node

    def _ternary(self) -> _Node:
        condition = self._or()
        if not self._take("?"):
            return condition
        self._deeper()
        then = self._ternary()
        if not self._take(":"):
            raise self._unexpected("':'")
        otherwise = self._ternary()
        self._depth -= 1
        self._count()
        test, yes, no = condition.evaluate, then.evaluate, otherwise.evaluate
        return _Node(_joined(then, otherwise), lambda v: yes(v) if test(v) else no(v))

    def _or(self) -> _Node:
        left = self._and()
        while self._take("||"):
            right = self._and()
            left = self._logic(left, right, lambda a, b: lambda v: a(v) or b(v))
        return left

    def _and(self) -> _Node:
        left = self._equality()
        while self._take("&&"):
            right = self._equality()
            left = self._logic(left, right, lambda a, b: lambda v: a(v) and b(v))
        return left

    def _equality(self) -> _Node:
        return self._comparison(self._relation, ("==", "!="))

    def _relation(self) -> _Node:
        return self._comparison(self._sum, ("<=", ">=", "<", ">"))

    def _comparison(self, operand: Callable[[], _Node], operators: Sequence[str]) -> _Node:
        left = operand()
        for operator in operators:
            if self._take(operator):
                self._count()
                a, b = _as_number(left), _as_number(operand())
                return _Node("boolean", _COMPARE[operator](a, b))
        return left

    def _sum(self) -> _Node:
        return self._arithmetic(self._product, ("+", "-"))

    def _product(self) -> _Node:
        return self._arithmetic(self._unary, ("*", "/"))

    def _arithmetic(self, operand: Callable[[], _Node], operators: Sequence[str]) -> _Node:
        left = operand()
        while (operator := self._peek().text) in operators and self._take(operator):
            self._count()
            a, b = _as_number(left), _as_number(operand())
            left = _Node("number", _ARITHMETIC[operator](a, b))
        return left

    def _unary(self) -> _Node:
        operator = self._peek().text
        if operator not in {"!", "-", "+"}:
            return self._primary()
        self._take(operator)
        self._deeper()
        self._count()
        operand = self._unary()
        self._depth -= 1
        if operator == "!":
            truth = operand.evaluate
            return _Node("boolean", lambda v: not truth(v))
        a = _as_number(operand)
        if operator == "-":
            minus = _CONTEXT.minus
            return _Node("number", lambda v: minus(a(v)))
        return _Node("number", a)

    def _primary(self) -> _Node:
        token = self._peek()
        if token.text == "(" and self._take("("):
            self._deeper()
            inside = self._ternary()
            if not self._take(")"):
                raise self._unexpected("')'")
            self._depth -= 1
            return inside
        if token.kind not in {"number", "name"}:
            raise self._unexpected()
        self._at += 1
        self._count()
        if token.kind == "name":
            index = self.variables.index(token.text)
            return _Node("number", lambda v: v[index])
        number = _literal(token.text)
        return _Node("number", lambda _: number)

    def _logic(
        self,
        left: _Node,
        right: _Node,
        join: Callable[[_Evaluate, _Evaluate], _Evaluate],
    ) -> _Node:
        self._count()
        return _Node(_joined(left, right), join(left.evaluate, right.evaluate))

    def _peek(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def _take(self, operator: str) -> bool:
        token = self._peek()
        taken = token.kind == "operator" and token.text == operator
        self._at += taken
        return taken

    def _count(self) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            problem = f"the formula has more than {NODES_MAX} operands and operators"
            raise FormulaError("too_large", problem)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise FormulaError("too_deep", f"the formula is nested deeper than {DEPTH_MAX}")

    def _unexpected(self, wanted: str = "") -> FormulaError:
        found = self._peek()
        shown = found.text if found is _END else repr(found.text)
        expected = f", expected {wanted}" if wanted else ""
        return FormulaError("syntax", f"unexpected {shown}{expected}", found.text)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _stray(text, at)
        kind = match.lastgroup or ""
        if kind != "space":
            tokens.append(_Token(kind, match.group(kind)))
        at = match.end()
    return tokens


def _stray(text: str, at: int) -> FormulaError:
    name = _NAME.match(text, at)
    if name:
        word = name.group()
        return FormulaError("syntax", f"unexpected {word!r}; a variable is {{{word}}}", word)
    return FormulaError("syntax", f"unexpected {text[at]!r}", text[at])


def _literal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:  # or NaN, as the application's context will have it
        number = _NAN
    if not number.is_finite() or (number and abs(number.adjusted()) > _LITERAL_EXPONENT_MAX):
        raise FormulaError("number", f"the number {text} is out of range", text)
    return number


def _joined(one: _Node, other: _Node) -> _Kind:
    return one.kind if one.kind == other.kind else "either"


def _as_number(node: _Node) -> Callable[[_Values], Decimal]:
    """The operand as a number: a comparison counts 1 or 0."""
    evaluate = node.evaluate
    if node.kind == "number":
        return evaluate  # type: ignore[return-value]  # a number node never gives a bool

    def number(values: _Values) -> Decimal:
        value = evaluate(values)
        if isinstance(value, bool):
            return _ONE if value else _ZERO
        return value

    return number


_Operand: TypeAlias = Callable[[_Values], Decimal]

_ARITHMETIC: Final[Mapping[str, Callable[[_Operand, _Operand], _Evaluate]]] = {
    "+": lambda a, b: lambda v: _add(a(v), b(v)),
    "-": lambda a, b: lambda v: _subtract(a(v), b(v)),
    "*": lambda a, b: lambda v: _multiply(a(v), b(v)),
    "/": lambda a, b: lambda v: _divide(a(v), b(v)),
}
_COMPARE: Final[Mapping[str, Callable[[_Operand, _Operand], _Evaluate]]] = {
    "<": lambda a, b: lambda v: a(v) < b(v),
    "<=": lambda a, b: lambda v: a(v) <= b(v),
    ">": lambda a, b: lambda v: a(v) > b(v),
    ">=": lambda a, b: lambda v: a(v) >= b(v),
    "==": lambda a, b: lambda v: a(v) == b(v),
    "!=": lambda a, b: lambda v: a(v) != b(v),
}
