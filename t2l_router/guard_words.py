"""The words that the guard knows, all lower case."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _numbers() -> dict[str, str]:
    small = (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty"
    )
    values = {word: value for value, word in enumerate(small.split(" "))}
    values |= {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80}
    values |= {"ninety": 90, "hundred": 100, "thousand": 1_000, "million": 1_000_000}
    values |= {"third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "tenth": 10}
    values |= {"twice": 2, "thrice": 3}
    return {word: str(value) for word, value in values.items()}


NUMBERS = _numbers()

SCALES = _set("hundred thousand million")
"""The numbers among them that multiply the one before."""

UNITS = _set(
    "word words sentence sentences line lines paragraph bullet point step item character letter "
    "option example"
)
"""After these "one" is a number, not a pronoun."""

LANGUAGES = {
    name: name
    for name in _set(
        "arabic assamese bengali bulgarian catalan chinese croatian czech danish dutch english "
        "estonian farsi finnish french galician german greek gujarati hebrew hindi hungarian "
        "icelandic igbo indonesian irish italian japanese javanese kannada korean latin latvian "
        "lithuanian malay malayalam marathi nepali norwegian oriya panjabi persian polish "
        "portuguese pashto punjabi romanian russian serbian sinhala slovak slovenian somali "
        "spanish swahili swedish tagalog tamil telugu thai turkish ukrainian urdu vietnamese "
        "welsh xhosa yoruba zulu python java javascript typescript rust ruby sql bash c++ c# "
        "kotlin haskell perl php"
    )
} | {"mandarin": "chinese", "castilian": "spanish", "farsi": "persian", "panjabi": "punjabi"}

PROGRAMMING = _set(
    "python java javascript typescript rust ruby sql bash c++ c# kotlin haskell perl php"
)
"""The languages among them that nobody speaks."""

FORMATS = (
    {name: name for name in _set("json xml yaml csv html markdown latex table paragraph essay")}
    | dict.fromkeys(_set("poem haiku limerick sonnet ballad"), "poem")
    | {"bullet": "bullets", "bullets": "bullets", "bulleted": "bullets", "tables": "table"}
)


def _sides(*pairs: str) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    halves = (pair.split("|") for pair in pairs)
    return tuple((_set(left), _set(right)) for left, right in halves)


OPPOSITES = _sides(
    "upper uppercase capital capitals capitalize|lower lowercase",
    "first|last final",
    "ascending increasing|descending decreasing",
    "smallest lowest minimum min least|largest greatest highest biggest maximum max most",
    "shortest|longest",
    "earliest|latest",
    "oldest|newest youngest",
    "more|less fewer",
    "longer|shorter",
    "shorten condense summarize summarise|lengthen expand elaborate",
    "before|after",
    "always|never",
    "formal|informal casual",
    "active|passive",
    "polite politely|rude rudely impolite",
    "singular|plural",
    "past|future",
    "add append|subtract minus",
    "add insert include keep|remove delete omit exclude drop",
    "multiply product|divide quotient",
    "encode encrypt|decode decrypt",
    "compress|decompress",
    "even|odd",
    "prefix|suffix",
    "start starts beginning|end ends ending",
    "synonym synonyms|antonym antonyms opposite",
    "positive|negative",
    "correct true|incorrect wrong false",
    "simplify simple simpler easy|complicate complex complicated difficult hard",
    "allowed accept approve|forbidden reject refuse deny decline",
    "cause causes|effect effects",
    "left|right",
    "vertical vertically|horizontal horizontally",
    "hypernym|hyponym",
    "male masculine|female feminine",
    "above|below",
    "internal|external",
    "optimistic|pessimistic",
    "agree support|disagree oppose",
    "pros advantages strengths benefits|cons disadvantages weaknesses drawbacks",
    "similarities similarity|differences difference",
    "praise compliment|criticise criticize insult",
    "buy|sell",
    "import|export",
    "enable|disable",
    "win winner winning|lose loser losing",
    "nearest closest|farthest furthest",
    "heaviest|lightest",
    "vowel vowels|consonant consonants",
    "sender|recipient receiver",
    "metric|imperial",
    "literal|figurative metaphorical",
    "public|private",
    "legal lawful|illegal unlawful",
    "relevant|irrelevant",
    "likely|unlikely",
    "valid|invalid",
    "increase raise|decrease reduce",
    "maximise maximize|minimise minimize",
    "hero protagonist|villain antagonist",
    "encourage persuade|discourage dissuade",
)
"""Pairs of sides; a text that names both sides of a pair says nothing about it."""

_LOOSE = _set("first more longer before always start above left add prefix internal allowed")
DECISIVE = tuple(pair for pair in OPPOSITES if not _LOOSE & (pair[0] | pair[1]))
"""The pairs whose one side is rarely said by the way."""

NEGATORS = _set(
    "no not never without don't doesn't didn't isn't aren't won't can't cannot shouldn't mustn't "
    "avoid avoiding exclude excluding omit omitting except non neither nor dont"
)

FILLERS = _set(
    "a an the this that these those it its is are was were be been being of for from to into in "
    "on at by with as and or your you i me my we our they them their his her user any some all "
    "each every given please pls just only also so such very will would should can could must "
    "do does have has had using use used task goal need needs here there when if then than more "
    "which what who whose where how one other another"
)
"""Words without content of their own."""

OUTPUT_VERBS = _set(
    "give name find return output write produce generate identify provide predict determine say "
    "tell answer guess get list"
)

TASK_VERBS = _set(
    "alphabetise alphabetize answer brainstorm calculate change check classify come compare "
    "complete compose compute condense continue convert correct count create debug decide "
    "define describe design do draft edit evaluate expand explain extract find fix formulate "
    "format generate give help identify improve invent judge label list make mark name outline "
    "paraphrase plan polish prepare proofread propose pull put rank rate recommend refactor "
    "reformat rephrase reply review rewrite say score shorten show simplify solve sort spell "
    "suggest sum summarise summarize tell test think translate turn write"
)
"""What a request begins with."""
