"""The words of :mod:`trainables.data.parallel`: English, German, and how they are inflected."""

from __future__ import annotations

from typing import NamedTuple


class Noun(NamedTuple):
    """A noun by its singular and plural forms; ``gender`` is m, f or n."""

    singular: str
    plural: str
    gender: str
    einzahl: str
    mehrzahl: str

    def english(self, plural: bool) -> str:
        """The English form."""
        return self.plural if plural else self.singular

    def german(self, plural: bool, dative: bool) -> str:
        """The German form: a plural in the dative ends in n, unless it ends in s."""
        if not plural:
            return self.einzahl
        return f"{self.mehrzahl}n" if dative and self.mehrzahl[-1] not in "ns" else self.mehrzahl


class Verb(NamedTuple):
    """A verb of the third person; ``prefix`` is what a separable verb loses, "" of others.

    ``base`` and ``particle`` are English (*pick*, *up*); ``einzahl`` the German singular.
    """

    base: str
    third: str
    past: str
    particle: str
    prefix: str
    infinitive: str
    einzahl: str
    participle: str

    def english(self, plural: bool) -> str:
        """The English present."""
        return self.base if plural else self.third

    def present(self, plural: bool) -> str:
        """The German present, without the prefix; its plural is the infinitive."""
        return self.infinitive if plural else self.einzahl


class Auxiliary(NamedTuple):
    """What an infinitive goes with."""

    english: str
    einzahl: str
    mehrzahl: str

    def german(self, plural: bool) -> str:
        """The German form."""
        return self.mehrzahl if plural else self.einzahl


class Preposition(NamedTuple):
    """A preposition, the case that it takes, and whether people or things follow."""

    english: str
    german: str
    dative: bool
    people: bool


def _rows(text: str) -> list[list[str]]:
    """The words of each line; ``-`` is none, ``_`` a blank."""
    lines = [line.split() for line in text.splitlines() if line]
    return [["" if w == "-" else w.replace("_", " ") for w in line] for line in lines]


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((english, german) for english, german in _rows(text))


PEOPLE = tuple(
    Noun(*row)
    for row in _rows("""
teacher teachers m Lehrer Lehrer
doctor doctors m Arzt Ärzte
woman women f Frau Frauen
child children n Kind Kinder
engineer engineers m Ingenieur Ingenieure
sister sisters f Schwester Schwestern
girl girls n Mädchen Mädchen
friend friends m Freund Freunde
brother brothers m Bruder Brüder
baker bakers m Bäcker Bäcker
daughter daughters f Tochter Töchter
uncle uncles m Onkel Onkel
aunt aunts f Tante Tanten
baby babies n Baby Babys
""")
)
THINGS = tuple(
    Noun(*row)
    for row in _rows("""
book books n Buch Bücher
letter letters m Brief Briefe
flower flowers f Blume Blumen
key keys m Schlüssel Schlüssel
car cars n Auto Autos
table tables m Tisch Tische
lamp lamps f Lampe Lampen
picture pictures n Bild Bilder
bicycle bicycles n Fahrrad Fahrräder
cup cups f Tasse Tassen
coat coats m Mantel Mäntel
apple apples m Apfel Äpfel
newspaper newspapers f Zeitung Zeitungen
knife knives n Messer Messer
chair chairs m Stuhl Stühle
bag bags f Tasche Taschen
house houses n Haus Häuser
clock clocks f Uhr Uhren
shirt shirts n Hemd Hemden
stone stones m Stein Steine
""")
)
_OF_ALL = """
old alt
small klein
big groß
beautiful schön
strange seltsam
famous berühmt
strong stark
wonderful wunderbar
"""
OF_PEOPLE = _pairs(f"""{_OF_ALL}
young jung
cheerful fröhlich
clever klug
friendly freundlich
""")
OF_THINGS = _pairs(f"""{_OF_ALL}
new neu
red rot
green grün
heavy schwer
black schwarz
ugly hässlich
""")
VERBS = tuple(
    Verb(*row)
    for row in _rows("""
buy buys bought - - kaufen kauft gekauft
sell sells sold - - verkaufen verkauft verkauft
see sees saw - - sehen sieht gesehen
find finds found - - finden findet gefunden
carry carries carried - - tragen trägt getragen
wash washes washed - - waschen wäscht gewaschen
need needs needed - - brauchen braucht gebraucht
draw draws drew - - zeichnen zeichnet gezeichnet
praise praises praised - - loben lobt gelobt
repair repairs repaired - - reparieren repariert repariert
pick picks picked up auf heben hebt aufgehoben
throw throws threw away weg werfen wirft weggeworfen
bring brings brought along mit bringen bringt mitgebracht
hang hangs hung up auf hängen hängt aufgehängt
collect collects collected - ab holen holt abgeholt
pack packs packed - ein packen packt eingepackt
""")
)
GIVING = tuple(
    Verb(*row)
    for row in _rows("""
give gives gave - - geben gibt gegeben
show shows showed - - zeigen zeigt gezeigt
send sends sent - - schicken schickt geschickt
lend lends lent - - leihen leiht geliehen
hand hands handed - - überreichen überreicht überreicht
promise promises promised - - versprechen verspricht versprochen
""")
)
MATRIX = tuple(
    Verb(*row)
    for row in _rows("""
say says said - - sagen sagt gesagt
believe believes believed - - glauben glaubt geglaubt
know knows knew - - wissen weiß gewusst
hope hopes hoped - - hoffen hofft gehofft
write writes wrote - - schreiben schreibt geschrieben
""")
)
AUXILIARIES = tuple(
    Auxiliary(*row)
    for row in _rows("""
will wird werden
can kann können
must muss müssen
should soll sollen
""")
)
PREPOSITIONS = (
    Preposition("behind", "hinter", dative=True, people=False),
    Preposition("next to", "neben", dative=True, people=False),
    Preposition("with", "mit", dative=True, people=True),
    Preposition("for", "für", dative=False, people=True),
    Preposition("without", "ohne", dative=False, people=True),
)
CONJUNCTIONS = _pairs("""
because weil
although obwohl
while während
before bevor
as_soon_as sobald
""")
TIMES = _pairs("""
today heute
tomorrow morgen
now jetzt
often oft
on_Monday am_Montag
in_the_evening am_Abend
every_week jede_Woche
""")
STEMS = {"the": "der", "this": "dies", "these": "dies", "a": "ein", "my": "mein", "no": "kein"}
"""German by English determiner."""
_SMALL = """
zero null
one eins
two zwei
three drei
four vier
five fünf
six sechs
seven sieben
eight acht
nine neun
ten zehn
eleven elf
twelve zwölf
thirteen dreizehn
fourteen vierzehn
fifteen fünfzehn
sixteen sechzehn
seventeen siebzehn
eighteen achtzehn
nineteen neunzehn
"""
UNITS = _pairs(_SMALL)
TENS = dict(
    enumerate(
        _pairs("""
twenty zwanzig
thirty dreißig
forty vierzig
fifty fünfzig
sixty sechzig
seventy siebzig
eighty achtzig
ninety neunzig
"""),
        start=2,
    )
)
