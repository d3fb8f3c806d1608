"""Files of the repository that are outside docs/ get their place in the site: some as pages, the rest as plain files.

In: pages as GitHub shows them, whose links start at the page's folder in the repository. Out: the same pages, whose links
start at the page's place in the site. A link to what the repository does not have is a warning, and ends a strict build.
"""

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "cluster/README.md": "cluster.md",
}
"""Pages outside docs/, by their path in the repository: where the site has them."""
SOURCES = {place: path for path, place in PAGES.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])([^)\s#]+)")
"""The target of a link within the repository, without its anchor."""
log = logging.getLogger("mkdocs.hooks.repository")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are outside docs/."""
    for path, place in PAGES.items():
        if (_root(config) / path).exists():
            files.append(File.generated(config, place, abs_src_path=str(_root(config) / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite a page's links, from places in the repository to places in the site."""
    place = page.file.src_uri
    if page.file.generated_by and place not in SOURCES:
        return markdown
    folder = posixpath.dirname(SOURCES.get(place, f"docs/{place}"))

    def rewritten(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        if not (_root(config) / path).exists():
            log.warning(f"{SOURCES.get(place, f'docs/{place}')} links to {link[1]}, which the repository does not have")
            return link[1]
        return posixpath.relpath(_place_in_site(path, config, files), posixpath.dirname(place))

    return LINK.sub(rewritten, markdown)


def _place_in_site(path: str, config: MkDocsConfig, files: Files) -> str:
    """Where the site has a file of the repository, which is added to it if no page has linked to it before."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    place = f"files/{path}"
    if place not in files.src_uris:
        source = str(_root(config) / path)
        files.append(File.generated(config, place, abs_src_path=source, inclusion=InclusionLevel.INCLUDED))
    return place


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent
