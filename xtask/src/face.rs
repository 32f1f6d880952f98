//! The face of the client library: `client-lib/public-items.txt` has one line for each type, function,
//! method, field, variant and implemented trait that an app can use, and CI compares, so that no change of it
//! goes unseen.
//!
//! The list is read from rustdoc's pages. rustdoc is the only one that knows what is public after re-exports,
//! hidden modules, macros and derives, and of its forms the pages are the one that the stable toolchain
//! writes: JSON needs nightly, and a reader of sources would be a second compiler. The toolchain is pinned,
//! so the pages keep their form until it is raised on purpose; a page that is not understood is an error, and
//! never an empty list. That the names can be used as they stand, the examples show, which CI builds.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use crate::step::{cargo, root, target_directory};

const LIST: &str = "client-lib/public-items.txt";
const CRATE: &str = "posthorn_client";
/// Fewer items than the library has ever had: below, the pages were not understood.
const LEAST: usize = 100;
/// Implemented by the derive of `PartialEq`, and of no use to anybody.
const NO_TRAIT: &str = "StructuralPartialEq";

/// What to do with the list.
#[derive(Debug, Args)]
pub(crate) struct FaceArguments {
    /// Write the list instead of comparing it.
    #[arg(long)]
    pub(crate) write: bool,
}

/// Compares the list with the pages, or writes it.
pub(crate) fn run(arguments: &FaceArguments) -> anyhow::Result<()> {
    let pages = target_directory()?.join("doc").join(CRATE);
    // The step before wrote the pages of private items to the same place.
    if pages.exists() {
        std::fs::remove_dir_all(&pages).with_context(|| format!("{}", pages.display()))?;
    }
    // All crates, because cargo would build the dependencies of one alone with other features.
    // What is wrong with the text, the step before has told.
    let mut doc = cargo("doc --workspace --lib --no-deps --quiet");
    let status = doc.env("RUSTDOCFLAGS", "--cap-lints allow").status();
    ensure!(status.context("cargo does not start")?.success(), "cargo doc failed");
    let now = items(&pages)?;
    let path = root().join(LIST);
    if arguments.write {
        return std::fs::write(&path, now.join("\n") + "\n").context(LIST);
    }
    let listed = std::fs::read_to_string(&path).context(LIST)?;
    let differences = differences(&listed.lines().collect::<Vec<_>>(), &now);
    for difference in &differences {
        println!("{difference}");
    }
    ensure!(differences.is_empty(), "the client library's face is not what {LIST} says");
    println!("{} items, as listed", now.len());
    Ok(())
}

fn differences(listed: &[&str], now: &[String]) -> Vec<String> {
    let gone = listed.iter().filter(|line| !now.iter().any(|item| item == *line));
    let new = now.iter().filter(|item| !listed.contains(&item.as_str()));
    gone.map(|line| format!("- {line}")).chain(new.map(|item| format!("+ {item}"))).collect()
}

/// Everything that the index of all items names.
fn items(pages: &Path) -> anyhow::Result<Vec<String>> {
    let read = |name: &str| std::fs::read_to_string(pages.join(name)).with_context(|| name.to_owned());
    let mut items = Vec::new();
    for (page, path) in links(&read("all.html")?) {
        let of_page = of_page(&path, &read(&page)?);
        items.extend(of_page.with_context(|| format!("the page {page} is not understood"))?);
    }
    ensure!(items.len() >= LEAST, "only {} items: rustdoc's pages were not understood", items.len());
    Ok(items)
}

/// The pages that `all.html` links to, and the paths of their items.
fn links(all: &str) -> Vec<(String, String)> {
    let links = all.split("<li><a href=\"").skip(1).filter_map(|rest| rest.split_once("\">"));
    let pages = links.filter(|(page, _)| page.ends_with(".html"));
    pages.filter_map(|(page, rest)| Some((page.to_owned(), rest.split_once("</a>")?.0.to_owned()))).collect()
}

/// One item: its own line, and one for each thing in it.
fn of_page(path: &str, page: &str) -> anyhow::Result<Vec<String>> {
    let declaration = between(page, "<pre class=\"rust item-decl\"><code>", "</code></pre>");
    let declaration = text(declaration.context("no declaration")?);
    let (head, body) = match declaration.split_once(" {") {
        Some((head, body)) => (head, body.rsplit_once('}').context("no end of the declaration")?.0),
        None => (declaration.as_str(), ""),
    };
    let name = path.rsplit("::").next().unwrap_or(path);
    ensure!(head.contains(name), "its declaration declares something else: {head}");
    let own = head.trim_end_matches(';').replace("pub ", "").replacen(name, path, 1);
    let traits = traits(name, page);
    let mut lines = vec![if traits.is_empty() { own } else { format!("{own}: {}", traits.join(", ")) }];
    let members = members(body).into_iter();
    lines.extend(members.map(|member| format!("{path}::{}", member.trim_start_matches("pub "))));
    for (name, signature) in inherent(page) {
        lines.push(signature.replace("pub ", "").replacen(&name, &format!("{path}::{name}"), 1));
    }
    if lines.iter().any(|line| line.contains(['\n', '\r']) || line.contains("</")) {
        bail!("a line is out of form: {lines:?}");
    }
    Ok(lines)
}

/// Fields or variants: what commas part that stand in no brackets.
fn members(body: &str) -> Vec<String> {
    let (mut depth, mut members, mut before) = (0, vec![String::new()], ' ');
    for sign in body.chars() {
        match sign {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '>' if before != '-' => depth -= 1,
            ',' if depth == 0 => {
                members.push(String::new());
                continue;
            }
            _ => {}
        }
        before = sign;
        if let Some(member) = members.last_mut() {
            member.push(sign);
        }
    }
    let members = members.iter().map(|member| member.trim());
    members.filter(|member| !member.is_empty() && !member.starts_with("/*")).map(str::to_owned).collect()
}

/// Names and signatures of methods and constants that are the type's own.
fn inherent(page: &str) -> Vec<(String, String)> {
    let Some(own) = page.split("<div id=\"implementations-list\">").nth(1) else { return Vec::new() };
    let own = own.split("<h2 id=").next().unwrap_or(own);
    let sections = own.split("<section id=\"").skip(1);
    let named = sections.filter_map(|section| Some((section.split_once('"')?.0.split_once('.')?.1, section)));
    // rustdoc numbers a name that it has seen on the page before: `method.new-1`.
    let named = named.map(|(name, section)| (name.split('-').next().unwrap_or(name), section));
    named
        .filter_map(|(name, section)| {
            let signature = between(section, "<h4 class=\"code-header\">", "</h4>")?;
            Some((name.to_owned(), text(signature)))
        })
        .collect()
}

/// The traits that are implemented for a type, but for those that every type has.
fn traits(name: &str, page: &str) -> Vec<String> {
    let Some(list) = page.split("<div id=\"trait-implementations-list\">").nth(1) else { return Vec::new() };
    let list = list.split("<h2 id=").next().unwrap_or(list);
    let headers = list.split("class=\"impl\">").skip(1);
    let headers = headers.filter_map(|rest| between(rest, "<h3 class=\"code-header\">", "</h3>")).map(text);
    let named = headers.filter_map(|header| {
        // `impl<'de> Deserialize<'de> for Event`. The page also has what other types make of this one.
        let (named, of) = header.split_once(" for ")?;
        let is_own = of.split(['<', ' ']).next() == Some(name);
        let (parameters, named) = named.split_once(' ')?;
        (is_own && parameters.starts_with("impl") && named != NO_TRAIT).then(|| named.to_owned())
    });
    let mut traits: Vec<String> = named.collect();
    traits.sort();
    traits
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(inside, _)| inside)
}

/// What a reader sees of HTML, on one line. Summaries ("Show 12 variants") are no part of the code.
fn text(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        let after =
            if tag.starts_with("summary") { tag.split_once("</summary>") } else { tag.split_once('>') };
        if tag.starts_with("/div") || tag.starts_with("div") {
            text.push(' ');
        }
        rest = after.map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    for (entity, sign) in
        [("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&quot;", "\""), ("&nbsp;", " "), ("&amp;", "&")]
    {
        text = text.replace(entity, sign);
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // The sign leads to a note about the type that is returned.
    line.replace(" ⓘ", "").replace("( ", "(").replace(", )", ")").replace(", }", " }").replace(", >", ">")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r##"<h1>Enum</h1>
<pre class="rust item-decl"><code><div class="code-attribute">#[non_exhaustive]</div>pub enum Event {
<details class="toggle"><summary class="hideme"><span>Show 3 variants</span></summary>    Connected,
    Entry(<a href="x">Map</a>&lt;<a>u8</a>, u8&gt;),
    Missed {
        events: <a>u64</a>,
        of: fn(u8, u8) -&gt; u8,
    },
</details>}</code></pre>
<h2 id="implementations">Implementations</h2><div id="implementations-list">
<section id="impl-Event" class="impl"><h3 class="code-header">impl Event</h3></section>
<section id="method.is_new" class="method">
<h4 class="code-header">pub async fn <a href="#method.is_new" class="fn">is_new</a>(
    &amp;self,
    at: <a>u64</a>,
) -&gt; bool</h4></section></div>
<h2 id="trait-implementations">Trait</h2><div id="trait-implementations-list">
<section id="impl-Serialize-for-Event" class="impl">
<h3 class="code-header">impl <a>Serialize</a> for <a>Event</a></h3></section>
<section id="method.serialize" class="method trait-impl"><h4 class="code-header">fn serialize()</h4></section>
<section id="impl-Deserialize" class="impl">
<h3 class="code-header">impl&lt;&#39;de&gt; <a>Deserialize</a>&lt;&#39;de&gt; for <a>Event</a></h3></section>
<section id="impl-From-for-Kind" class="impl">
<h3 class="code-header">impl <a>From</a>&lt;Event&gt; for <a>Kind</a></h3></section></div>
<h2 id="synthetic-implementations">Auto</h2><div>
<section id="impl-Send" class="impl"><h3 class="code-header">impl Send for Event</h3></section></div>"##;
    const STRUCTURE: &str = r##"<pre class="rust item-decl"><code>pub struct S {
    pub row: u64,
    /* private fields */
}</code></pre>"##;
    const INDEX: &str = r##"<li><a href="#structs">Structs</a></li>
<ul><li><a href="struct.A.html">A</a></li><li><a href="b/enum.B.html">b::B</a></li></ul>"##;

    #[test]
    fn a_page_is_read() {
        assert_eq!(
            of_page("a::Event", PAGE).expect("understood"),
            [
                "#[non_exhaustive] enum a::Event: Deserialize<'de>, Serialize",
                "a::Event::Connected",
                "a::Event::Entry(Map<u8, u8>)",
                "a::Event::Missed { events: u64, of: fn(u8, u8) -> u8 }",
                "async fn a::Event::is_new(&self, at: u64) -> bool",
            ]
        );
        assert_eq!(of_page("S", STRUCTURE).expect("understood"), ["struct S", "S::row: u64"]);
        let constant = "<pre class=\"rust item-decl\"><code>pub const C: usize = _; // 5usize</code></pre>";
        assert_eq!(of_page("C", constant).expect("understood"), ["const C: usize = _; // 5usize"]);
        assert!(of_page("S", "<pre>pub struct S;</pre>").is_err(), "another form of pages");
        assert!(of_page("Other", STRUCTURE).is_err(), "another item");
    }

    #[test]
    fn the_index_names_the_pages() {
        let pages = [("struct.A.html", "A"), ("b/enum.B.html", "b::B")];
        assert_eq!(links(INDEX), pages.map(|(page, path)| (page.to_owned(), path.to_owned())));
    }

    #[test]
    fn whatever_is_gone_or_new_is_told() {
        let now = ["fn a()", "fn c()"].map(str::to_owned);
        assert_eq!(differences(&["fn a()", "fn b()"], &now), ["- fn b()", "+ fn c()"]);
        assert!(differences(&["fn a()", "fn c()"], &now).is_empty());
    }
}
