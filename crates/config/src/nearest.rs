//! The valid name that is nearest to a misspelt one.

/// The nearest of `names` to `word`, and how many edits lie between; upper and lower case are one.
pub(crate) fn nearest<'a>(
    word: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<(&'a str, usize)> {
    // A name of a megabyte must not take a minute to compare; beyond this all are equally far.
    const COMPARED_CHARACTERS_MAX: usize = 64;
    let word: String = word
        .to_lowercase()
        .chars()
        .take(COMPARED_CHARACTERS_MAX)
        .collect();
    names
        .into_iter()
        .map(|name| {
            (
                name,
                strsim::damerau_levenshtein(&word, &name.to_lowercase()),
            )
        })
        .min_by_key(|(_, distance)| *distance)
}
