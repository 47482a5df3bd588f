"""What the README tells users to configure, so that this is what is tested."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
GRPC, HTTP = "localhost:7420", "localhost:7421"


def block(tool, server, number=0):
    """One of a tool's blocks in the section "Build tools", with this server's addresses."""
    section = part(README.read_text(), "\n## Build tools\n", "\n## ")
    blocks = re.findall(r"^```\w+\n(.*?)^```$", part(section, f"\n### {tool}\n", "\n### "), re.M | re.S)
    return blocks[number].replace(GRPC, server.grpc).replace(HTTP, server.http)


def part(text, heading, following):
    return text.split(heading, 1)[1].split(following, 1)[0]
