#!/usr/bin/env python3
"""A bot for Posthorn that answers questions: in groups, and to anybody who writes to it.

It starts `posthorn daemon` and speaks JSON-RPC with it (docs/json-rpc.md). Register its profile once, then:

    bot.py --posthorn target/release/posthorn --home profiles/faq

Nothing is answered twice: the id of an answer is made of the id of its question.
"""

import argparse
import base64
import hashlib
import itertools
import json
import subprocess
import sys

ANSWERS = {
    "!hours": "We are open from nine to five.",
    "!where": "Harbour Street 1, second floor.",
}
HELP = "I know " + ", ".join(sorted(ANSWERS)) + "."


class Posthorn:
    """A profile, by way of a daemon that ends with this program."""

    def __init__(self, command):
        pipe = subprocess.PIPE
        self.daemon = subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8")
        self.numbers = itertools.count(1)
        self.events = []

    def line(self):
        line = self.daemon.stdout.readline()
        if not line:
            sys.exit(f"the daemon has ended with exit status {self.daemon.wait()}")
        return json.loads(line)

    def call(self, method, **params):
        """The result of a method. Events that come before it are kept."""
        number = next(self.numbers)
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.daemon.stdin.write(json.dumps(request) + "\n")
        self.daemon.stdin.flush()
        while True:
            line = self.line()
            if line.get("method") == "event":
                self.events.append(line["params"])
            elif line.get("id") == number:
                if "error" in line:
                    raise RuntimeError(f"{method}: {line['error']['message']}")
                return line["result"]

    def event(self):
        """The next event."""
        while not self.events:
            line = self.line()
            if line.get("method") == "event":
                self.events.append(line["params"])
        return self.events.pop(0)


def answer_to(text):
    """What to say to a text; None if it is no question."""
    word = text.strip().lower()
    if not word.startswith("!"):
        return None
    return ANSWERS.get(word, HELP)


def answer_id(entry):
    """The id of the answer to an entry: 26 characters, always the same ones."""
    question = f"answer {entry['person']} {entry['id']}".encode()
    return base64.b32encode(hashlib.sha256(question).digest()[:16]).decode().rstrip("=").lower()


def read(posthorn, entry):
    """Answers an entry if it is a question of somebody else, and marks it as read."""
    said = entry.get("said") or {}
    if entry["mine"]:
        return
    text = answer_to(said.get("text", ""))
    if text is not None:
        said = {"kind": "text", "text": text}
        posthorn.call("send", conversation=entry["conversation"], said=said, id=answer_id(entry))
    posthorn.call("mark_read", conversation=entry["conversation"], up_to=entry["row"])


def catch_up(posthorn):
    """Reads what came while the bot was not there, or missed events."""
    for conversation in posthorn.call("conversations"):
        if conversation["unread"] and conversation["state"] == "active":
            unread = {"conversation": conversation["id"], "limit": conversation["unread"]}
            for entry in posthorn.call("history", **unread):
                read(posthorn, entry)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posthorn", default="posthorn", help="the program [default: posthorn]")
    parser.add_argument("--home", required=True, help="the folder of the bot's profile")
    arguments = parser.parse_args()
    posthorn = Posthorn([arguments.posthorn, "--home", arguments.home, "daemon", "--accept"])
    posthorn.call("subscribe")
    print(f"{posthorn.call('account')['handle']} answers; ctrl-c ends it", flush=True)
    catch_up(posthorn)
    while True:
        event = posthorn.event()
        if event["event"] == "entry":
            read(posthorn, event)
        elif event["event"] == "missed":
            catch_up(posthorn)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
