"""Options of a command line that take a number for each channel, written with commas or blanks between them."""

from collections.abc import Sequence

OPTIONS = ("mean", "std")
Numbers = tuple[float, ...]


def separated(arguments: Sequence[str]) -> list[str]:
    """Returns the words of a command line with each number of `OPTIONS` as a word of its own, at the end.

    So `--mean 0.485,0.456,0.406`, `--mean=0.485,0.456,0.406`, `--mean 0.485, 0.456, 0.406` and `--mean 0.485 0.456
    0.406` are one. Numbers with commas end where no comma joins the next word, those with blanks at the first word that
    is no number. At the end they take no word of others, such as an image file behind them. Of an option that is given
    twice the last one holds. Words behind `--` are left as they are.

    Raises:
        ValueError: an option has no numbers.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words, rest, found = list(arguments[:end]), list(arguments[end:]), dict[str, list[str]]()
    kept: list[str] = []
    while words:
        option, equals, value = words.pop(0).partition("=")
        name = option.removeprefix("--")
        if name not in OPTIONS or not option.startswith("--"):
            kept.append(option + equals + value)
            continue
        if equals:
            words.insert(0, value)
        taken: list[str] = []
        while words and _are_numbers(words[0]) and not _complete(taken, words[0]):
            taken.append(words.pop(0))
        if not (numbers := _parts(" ".join(taken))):
            given = repr(words[0]) if words and (equals or not words[0].startswith("--")) else "none"
            raise ValueError(f"{name} must be numbers, with commas or blanks between them; given {given}")
        found[option] = numbers
    for option, numbers in found.items():
        kept += [option, *numbers]
    return kept + rest


def as_text(numbers: Sequence[float]) -> str:
    """Returns numbers as a line shows them: four digits each, with blanks between them."""
    return " ".join(f"{number:.4g}" for number in numbers)


def _parts(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _are_numbers(word: str) -> bool:
    """True for a number, several with commas between them, or a comma alone."""
    try:
        return all(map(_is_float, _parts(word))) and bool(word.strip())
    except ValueError:
        return False


def _is_float(text: str) -> bool:
    return isinstance(float(text), float)


def _complete(taken: Sequence[str], following: str) -> bool:
    """True if the words that are taken have all their numbers: commas between them, and none to the word behind."""
    text = " ".join(taken)
    return "," in text and not text.endswith(",") and not following.startswith(",")
