//! What is read out of the node's metrics: Prometheus's text format, version 0.0.4.

use std::str::FromStr;

/// A page of metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Page(Vec<Sample>);

/// A line of it that counts.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// A line is none of the format.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Unreadable;

impl FromStr for Page {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| sample(line).ok_or(Unreadable)).collect::<Result<_, _>>().map(Self)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at_checked(end)?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Vec::new(), rest),
    };
    // A time may follow the value.
    let value = rest.split_ascii_whitespace().next()?;
    let value = if value == "+Inf" { f64::INFINITY } else { value.parse().ok()? };
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The labels behind a `{`, and what follows their `}`.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        rest = loop {
            match characters.next()? {
                (at, '"') => break quoted.get(at.checked_add(1)?..)?,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                (_, plain) => value.push(plain),
            }
        };
        labels.push((name.to_owned(), value));
    }
}

impl Page {
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name)
    }

    /// The value of what has one, or the sum over the labels of what has several; `None` where the node says nothing of it.
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        self.named(name).map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// The values by what `label` says, the largest first, without those that are 0.
    pub(super) fn by<'a>(&'a self, name: &'a str, label: &str) -> Vec<(&'a str, f64)> {
        let mut values: Vec<(&'a str, f64)> = Vec::new();
        for sample in self.named(name) {
            let Some(what) = sample.label(label) else { continue };
            match values.iter_mut().find(|(there, _)| *there == what) {
                Some((_, sum)) => *sum += sample.value,
                None => values.push((what, sample.value)),
            }
        }
        values.retain(|(_, value)| *value > 0.0);
        values.sort_by(|one, other| other.1.total_cmp(&one.1));
        values
    }

    /// The bound below which `share` of what a histogram counted since `before` lies; `None` where it counted nothing.
    pub(super) fn quantile(&self, before: &Self, name: &str, share: f64) -> Option<f64> {
        let bucket = format!("{name}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.named(&bucket) {
            let bound = sample.label("le")?;
            let known = before.named(&bucket).find(|earlier| earlier.labels == sample.labels);
            let count = sample.value - known.map_or(0.0, |earlier| earlier.value);
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            buckets.push((bound, count));
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let all = buckets.last()?.1;
        let wanted = (all > 0.0).then_some(all * share)?;
        buckets.into_iter().find(|(_, count)| *count >= wanted).map(|(bound, _)| bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a gauge\na 3\n\nb{x=\"one\",y=\"q\\\"}\"} 2.5\nb{x=\"two\"} 4 1700000000\nb{x=\"one\"} 2\nb{x=\"no\"} 0\n\
        h_bucket{le=\"0.1\"} 1\nh_bucket{le=\"1\"} 9\nh_bucket{le=\"+Inf\"} 10\n";

    #[test]
    fn values_are_read_by_name_and_label() {
        let page: Page = TEXT.parse().unwrap();
        assert_eq!(page.value("a"), Some(3.0));
        assert_eq!(page.value("b"), Some(8.5));
        assert_eq!(page.value("c"), None);
        assert_eq!(page.by("b", "x"), [("one", 4.5), ("two", 4.0)]);
        assert_eq!(page.by("b", "y"), [("q\"}", 2.5)]);
    }

    #[test]
    fn a_quantile_is_of_what_came_since() {
        let page: Page = TEXT.parse().unwrap();
        let quantile = |before: &str, share| page.quantile(&before.parse().unwrap(), "h", share);
        assert_eq!(quantile("", 0.5), Some(1.0));
        assert_eq!(quantile("", 0.1), Some(0.1));
        assert_eq!(quantile("", 0.99), Some(f64::INFINITY));
        assert_eq!(quantile("h_bucket{le=\"1\"} 9\nh_bucket{le=\"0.1\"} 1\n", 0.5), Some(f64::INFINITY));
        assert_eq!(quantile(TEXT, 0.5), None);
    }

    #[test]
    fn what_is_no_page_is_none() {
        for text in ["a", "a{", "a{x=\"} 1", "a{x} 1", "a b", "{\"status\":1}"] {
            assert_eq!(text.parse::<Page>(), Err(Unreadable), "{text}");
        }
    }
}
