//! Whether a text is one well-formed element tree: enough to notice a picture that no browser
//! would show.

use anyhow::{Context as _, Result, bail, ensure};

/// # Errors
/// An element is not closed, or text holds a bare `<` or `&`.
pub fn well_formed(svg: &str) -> Result<()> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg.trim();
    ensure!(
        rest.starts_with("<svg") || rest.starts_with("<?xml"),
        "no svg"
    );
    while let Some(at) = rest.find('<') {
        check_text(rest.get(..at).unwrap_or_default())?;
        let tail = rest.get(at + 1..).unwrap_or_default();
        let end = tail.find('>').context("a tag without end")?;
        let tag = tail.get(..end).unwrap_or_default();
        ensure!(!tag.contains('<'), "a bare < before {tag}");
        ensure!(tag.matches('"').count() % 2 == 0, "quotes in {tag}");
        let name = |t: &'_ str| t.split([' ', '\n', '/']).next().unwrap_or_default().len();
        if let Some(closed) = tag.strip_prefix('/') {
            let last = open.pop().context("closed without being open")?;
            ensure!(last == closed.trim(), "{closed} closes {last}");
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(tag.get(..name(tag)).unwrap_or_default());
        }
        rest = tail.get(end + 1..).unwrap_or_default();
    }
    check_text(rest)?;
    if let Some(left) = open.pop() {
        bail!("{left} is not closed");
    }
    Ok(())
}

fn check_text(text: &str) -> Result<()> {
    for (at, _) in text.match_indices('&') {
        let rest = text.get(at..).unwrap_or_default();
        ensure!(rest.contains(';'), "a bare & in {text}");
    }
    Ok(())
}
