//! Lists of numbers the way the kernel writes them: `0-3,8`. CPUs and slots are
//! both named like this.

/// Writes ranges of slots as they are read: `0-99,200`.
pub fn format_ranges(ranges: &[(u16, u16)]) -> String {
    let one = |&(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Writes numbers in their order, runs as ranges: `2-4,9`.
pub fn format_list(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match runs.last_mut() {
            Some(run) if n == run.1 + 1 => run.1 = n,
            _ => runs.push((n, n)),
        }
    }
    let one =
        |&(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Reads `0-3,8`, the way the kernel writes lists of CPUs. `None` if it is not one.
pub fn parse_ranges(text: &str) -> Option<Vec<(usize, usize)>> {
    // Far above any number that these lists hold; keeps `0-9999999999` from filling memory.
    const NUMBER_MAX: usize = 65_535;
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|&n| n <= NUMBER_MAX);
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last),
        None => number(part).map(|n| (n, n)),
    };
    if text.trim().is_empty() { Some(Vec::new()) } else { text.split(',').map(range).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_as_the_kernel_writes_them() {
        assert_eq!(parse_ranges("0-3,8\n"), Some(vec![(0, 3), (8, 8)]));
        assert_eq!(parse_ranges(" "), Some(Vec::new()));
        for wrong in ["3-1", "a", "1,,2", "1-2-3", "-1", "0-65536"] {
            assert_eq!(parse_ranges(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lists_are_written_short() {
        assert_eq!(format_list(&[2, 3, 4, 9, 1]), "2-4,9,1");
        assert_eq!(format_ranges(&[(0, 99), (200, 200)]), "0-99,200");
    }
}
