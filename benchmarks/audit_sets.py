"""Short texts with labels, made from templates: customer e-mails and requests to an IT help desk.

Each text has one or two sentences of its class, in many wordings. Around them are sentences that
any class may have, and often one about the subject of another class, so words alone don't give the
class away. A few texts are near copies of others, and some have typing errors.
"""

import random
import re
from collections.abc import Mapping, Sequence

Text = tuple[str, str]
"""(text, label)."""

SLOTS: Mapping[str, Sequence[str]] = {
    "item": (
        "kettle", "desk lamp", "running shoes", "rucksack", "blender", "raincoat", "headphones",
        "coffee grinder", "garden chair", "phone case", "bookshelf", "tent", "toaster", "wallet",
    ),
    "days": ("three days", "a week", "two weeks", "ten days", "nearly a month", "since Monday"),
    "order": ("order 20418", "order 77120", "my order", "my last order", "the order from Friday"),
    "sum": ("£12.40", "£39.99", "£85", "19 euros", "$54.20", "twice the price"),
    "month": ("January", "March", "June", "August", "October", "last month"),
    "name": ("Anna", "Tom", "Priya", "J. Novak", "Mrs Lee", "Samir", "Kath", "Oliver"),
    "app": ("Outlook", "the payroll site", "Teams", "the CRM", "Excel", "the ticket system"),
    "room": ("room 2.14", "the third floor", "the Leeds office", "reception", "the lab"),
    "machine": ("laptop", "desktop", "second screen", "docking station", "phone", "tablet"),
}  # fmt: skip
EMAILS: Mapping[str, Sequence[str]] = {
    "billing": (
        "I was charged {sum} and can't see what for.", "My card was debited twice for {order}.",
        "The invoice for {month} is wrong, it says {sum}.", "Please send me a VAT receipt.",
        "Why is there a fee of {sum} on my statement?", "You took the money but I never agreed.",
        "I need a copy of the bill from {month}.", "The discount code didn't come off the total.",
        "Can I pay by bank transfer instead of card?", "My payment keeps being declined.",
        "The amount you took doesn't match the price on the page.",
        "I've been paying {sum} more than I signed up for since {month}.",
    ),
    "delivery": (
        "{order} still hasn't arrived after {days}.", "Where is my {item}?",
        "The tracking hasn't moved for {days}.", "It says delivered but nothing came.",
        "The courier left it with a neighbour I don't know.", "When will the {item} be sent?",
        "Can you ship to another address?", "I wasn't in, when do they try again?",
        "How long does post to Ireland take?", "Half of {order} is missing from the box.",
        "I paid for express and have waited {days}.", "The driver couldn't find our house.",
    ),
    "returns": (
        "I'd like to send the {item} back.", "How do I return something?",
        "It doesn't fit, can I swap it for a larger one?", "I want my money back for the {item}.",
        "Please email me a return label.", "I posted the {item} back {days} ago, no refund yet.",
        "Can I bring it back to a shop?", "I changed my mind about the {item}.",
        "What's the deadline for sending things back?", "Is postage free if I return {order}?",
        "The refund of {sum} never reached me.", "I got the wrong colour and want to exchange it.",
    ),
    "faulty": (
        "The {item} stopped working after {days}.", "It came broken, the box was crushed.",
        "There's a crack down the side of the {item}.", "The {item} makes a burning smell.",
        "A part is missing so I can't put it together.", "It won't switch on at all.",
        "The zip on the {item} came off.", "It leaks everywhere when I use it.",
        "Is a {item} that dies after {days} covered by the guarantee?",
        "The second {item} has the very same defect.", "The stitching is coming apart already.",
        "It keeps cutting out every few minutes.",
    ),
    "account": (
        "I can't log in any more.", "The password email never arrives.",
        "Please change my address to the new one.", "How do I change the email you have for me?",
        "My account says it's locked.", "I want all my data deleted.",
        "The code you text me doesn't work.", "I seem to have two accounts, can you merge them?",
        "Somebody else has logged in as me.", "Your site doesn't recognise my email.",
        "My name is spelt wrong in my profile.", "I can't see my old orders when I sign in.",
    ),
    "cancel": (
        "Please cancel {order}.", "I'd like to stop my subscription.",
        "Don't send the {item}, I don't need it any longer.", "End my membership from {month}.",
        "I ordered the {item} by mistake, can you stop it?", "How do I get out of the plan?",
        "Please don't renew it in {month}.", "Take me off the monthly box.",
        "I clicked twice, so one of the two orders has to go.", "I no longer want {order}.",
        "Cancel it before it goes out, please.", "I want to quit, what's the notice period?",
    ),
    "product": (
        "Is the {item} waterproof?", "What size is the {item}?", "Do you have the {item} in blue?",
        "When is the {item} back in stock?", "Does the {item} come with batteries?",
        "Which {item} would you suggest for a small kitchen?", "How heavy is the {item}?",
        "Is it made in Europe?", "Can the {item} go into the dishwasher?",
        "What's the difference between the two {item} models?", "Do you sell spare parts?",
        "Is there a cheaper {item}?",
    ),
    "complaint": (
        "I've been on hold for an hour.", "Nobody answers my emails.",
        "Your colleague on the phone was rude.", "This is the third time I'm writing.",
        "I'm very disappointed with how this was handled.", "I will tell everyone to avoid you.",
        "I was promised a call back and heard nothing for {days}.", "What a shambles.",
        "Your chat robot is useless.", "I want to speak to a manager.",
        "I've been a customer for years and never seen such bad service.",
        "You closed my case without asking me.",
    ),
}  # fmt: skip
DESK: Mapping[str, Sequence[str]] = {
    "password": (
        "I forgot my password for {app}.", "My login to {app} is locked.",
        "I need my PIN reset.", "The two-step code never arrives.", "My password has expired.",
        "It says my credentials are wrong.", "I can't sign in since {days}.",
        "New phone, so the authenticator is gone.", "{app} asks for a password again and again.",
    ),
    "hardware": (
        "My {machine} won't turn on.", "The {machine} is broken.", "The battery lasts ten minutes.",
        "Two keys on the keyboard stick.", "Please order a new {machine} for {name}.",
        "The {machine} gets very hot.", "I spilt coffee over my {machine}.",
        "The fan is so loud that people stare.", "The {machine} isn't recognised when plugged in.",
    ),
    "network": (
        "No wifi in {room}.", "The VPN drops every few minutes.", "The internet is slow today.",
        "I can't reach the shared drive.", "Video calls freeze in {room}.",
        "The cable socket in {room} is dead.", "VPN won't connect from home.",
        "Everything online takes minutes to load.", "Pages time out on the guest network.",
    ),
    "software": (
        "Please install {app} for me.", "{app} crashes when I open it.",
        "I need a licence for {app}.", "{app} freezes since the update.",
        "An error pops up in {app}.", "Can I get the newer version of {app}?",
        "The add-in for {app} has disappeared.", "{app} won't save my file.",
        "Printing from {app} gives an empty page.",
    ),
    "access": (
        "{name} needs access to the finance folder.", "I can't open the shared calendar.",
        "Please add me to the project group.", "I was removed from the mailing list.",
        "{name} joins on Monday and needs an account.", "{name} has left, close the account.",
        "It says I don't have permission.", "Can I see the mailbox of {name} while she is away?",
        "Give me admin rights on {app}.",
    ),
    "printer": (
        "The printer in {room} is out of toner.", "Paper jam in {room} again.",
        "My print jobs never come out.", "It prints stripes.", "Scanning to email doesn't work.",
        "How do I print in colour?", "The printer in {room} shows an error.",
        "I can't find the printer in the list.", "It only prints the first page.",
    ),
}  # fmt: skip
AROUND: Mapping[str, Sequence[str]] = {
    "emails": (
        "Hello,", "Hi there,", "Good morning.", "Dear team,", "Please help.", "Thanks, {name}",
        "Kind regards, {name}", "I bought the {item} from you in {month}.", "It's about {order}.",
        "I'm a regular customer.", "Could somebody get back to me soon?", "It was a present.",
        "Many thanks.", "I've attached a photo.", "You can reach me after five.", "I'm confused.",
    ),
    "desk": (
        "Hi,", "Hello IT,", "Morning!", "It's urgent.", "Thanks, {name}", "I'm in {room}.",
        "It worked last week.", "I use {app} all day.", "I've restarted twice.", "Any ideas?",
        "I have a call at three.", "Same for my colleague {name}.",
        "Started in {month}.", "No rush.", "Can someone come to {room}?",
        "My {machine} is two years old.",
    ),
}  # fmt: skip
SETS = {"emails": EMAILS, "desk": DESK}


def texts_of(name: str, rows: int, seed: int, *, mixed: float = 0.35) -> list[Text]:
    """Texts of a set with their right labels; some classes are three times as frequent as others.

    mixed: the share of texts with a sentence of another class before their own.
    """
    random_ = random.Random(f"{name} {seed}")
    classes, around = SETS[name], AROUND[name]
    labels = list(classes)
    random_.shuffle(labels)
    weights = [1 + 2 * i / (len(labels) - 1) for i in range(len(labels))]
    texts: list[Text] = []
    while len(texts) < rows:
        label = random_.choices(labels, weights)[0]
        parts = random_.sample(classes[label], random_.choices((1, 2), (3, 1))[0])
        if random_.random() < mixed:
            other = random_.choice([one for one in labels if one != label])
            parts.insert(0, random_.choice(classes[other]))
        for _ in range(random_.choice((0, 0, 1, 1, 2))):
            parts.insert(random_.choice((0, len(parts))), random_.choice(around))
        text = re.sub(r"\{(\w+)\}", lambda slot: random_.choice(SLOTS[slot[1]]), " ".join(parts))
        texts.append((_mistyped(text, random_), label))
        if random_.random() < 0.04:
            texts.append(
                (
                    _mistyped(
                        f"{text} {random_.choice(('Thanks', 'Please reply', ''))}".strip(), random_
                    ),
                    label,
                )
            )
    return texts[:rows]


def _mistyped(text: str, random_: random.Random) -> str:
    """The text, sometimes with two letters swapped or without capitals."""
    if random_.random() < 0.15:
        at = random_.randrange(len(text) - 1)
        text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text.lower() if random_.random() < 0.15 else text
