//! One plot as inline SVG: a frame with axes and grid, and marks in it.
//!
//! A plot is drawn anew for each of `SIZES` and the style sheet shows the one that
//! suits the width of the page, so that text keeps its size and labels have room.
//! Colours come from the style sheet by class.

use super::axis::Axis;
use super::escape;

/// A width that plots are drawn for.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The class by which the style sheet shows it.
    pub class: &'static str,
    /// Its width in pixels.
    pub width: f64,
    /// Whether there is room for labels that are good to have.
    pub roomy: bool,
    /// Whether it is for screens with a pointer, which can hover over marks.
    pub hover: bool,
}

/// All of them: for a desk, a tablet or paper, a window beside another, and a telephone.
pub const SIZES: [Size; 4] = [
    Size { class: "wide", width: 980.0, roomy: true, hover: true },
    Size { class: "medium", width: 640.0, roomy: true, hover: false },
    Size { class: "small", width: 460.0, roomy: false, hover: false },
    Size { class: "narrow", width: 350.0, roomy: false, hover: false },
];

/// Pixels between two labels of a vertical axis.
pub const ROW: f64 = 26.0;
/// The width of a character of a label, on the wide side.
const CHARACTER: f64 = 7.2;
/// The same in bold, as names of lines are.
const BOLD: f64 = 8.6;
/// The least distance between the base lines of two labels.
const LINE: f64 = 15.0;
/// Pixels on the left for the labels of the vertical axis.
const LEFT: f64 = 58.0;
/// Pixels at the top.
const TOP: f64 = 12.0;
/// Pixels at the bottom for the labels of the horizontal axis and its title.
const BOTTOM: f64 = 44.0;

/// The width that a label takes, in pixels.
pub fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// What a point says by its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A filled circle.
    Circle,
    /// A cross of two strokes.
    Cross,
    /// An open triangle.
    Triangle,
    /// An open square that stands on a corner.
    Diamond,
}

impl Marker {
    /// The shape, `radius` pixels around a place.
    pub fn shape(self, x: f64, y: f64, radius: f64) -> String {
        let r = radius;
        match self {
            Marker::Circle => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\"/>"),
            Marker::Cross => {
                let r = r * 0.9;
                let (left, top, across) = (x - r, y - r, 2.0 * r);
                format!(
                    "<path d=\"M{left:.1},{top:.1}l{across:.1},{across:.1}m0,{:.1}l{:.1},{across:.1}\"/>",
                    -across, -across
                )
            }
            Marker::Triangle => {
                let (top, half) = (y - r * 1.1, r * 1.1);
                format!("<path d=\"M{x:.1},{top:.1}l{half:.1},{:.1}h{:.1}z\"/>", half * 1.8, -2.0 * half)
            }
            Marker::Diamond => {
                let (left, back) = (x - r, -r);
                format!("<path d=\"M{left:.1},{y:.1}l{r},{back}l{r},{r}l{back},{r}z\"/>")
            }
        }
    }

    /// The class that says how it is painted.
    pub fn class(self) -> &'static str {
        match self {
            Marker::Circle => "full",
            Marker::Cross | Marker::Triangle | Marker::Diamond => "open",
        }
    }
}

/// A line with a name.
pub struct Series {
    /// The name, written at its end.
    pub name: String,
    /// The classes that give it colour and stroke.
    pub class: String,
    /// Its points by x; a gap where there is none.
    pub points: Vec<Option<(f64, f64)>>,
}

/// A plot in the making.
pub struct Plot {
    size: Size,
    height: f64,
    right: f64,
    x: Axis,
    y: Axis,
    body: String,
    ends: Vec<(f64, String, String)>,
}

impl Plot {
    /// The height of the frame in a plot of `height` pixels.
    pub fn inner_height(height: f64) -> f64 {
        height - TOP - BOTTOM
    }

    /// An empty frame. `names` will be written to the right of it.
    pub fn new(size: Size, height: f64, x: Axis, y: Axis, names: &[&str]) -> Self {
        let longest = names.iter().map(|name| shortened(name, size).chars().count()).max().unwrap_or(0);
        let right = (longest as f64 * BOLD + 8.0).max(18.0);
        Self { size, height, right, x, y, body: String::new(), ends: Vec::new() }
    }

    /// The width of the frame in pixels.
    pub fn width(&self) -> f64 {
        self.size.width - LEFT - self.right
    }

    fn inner(&self) -> f64 {
        Self::inner_height(self.height)
    }

    /// The pixel of a value on the horizontal axis.
    pub fn px(&self, x: f64) -> f64 {
        LEFT + self.x.place(x) * self.width()
    }

    /// The pixel of a value on the vertical axis.
    pub fn py(&self, y: f64) -> f64 {
        TOP + (1.0 - self.y.place(y)) * self.inner()
    }

    /// The value on the horizontal axis at a pixel.
    pub fn value_at(&self, px: f64) -> f64 {
        self.x.value(((px - LEFT) / self.width()).clamp(0.0, 1.0))
    }

    /// Adds SVG as it is.
    pub fn raw(&mut self, svg: &str) {
        self.body.push_str(svg);
    }

    /// Horizontal lines with their labels.
    pub fn horizontal_grid(&mut self, label: fn(f64) -> String) {
        for tick in self.y.ticks(self.inner(), ROW) {
            let (y, right) = (self.py(tick), LEFT + self.width());
            self.raw(&format!("<path class=\"grid\" d=\"M{LEFT},{y:.1}H{right:.1}\"/>"));
            self.text(LEFT - 8.0, y + 4.0, "end", "tick", &label(tick));
        }
    }

    /// Short strokes with labels below the frame, those left out that would touch the one before;
    /// vertical lines as well if `lines`; and the title of the axis.
    pub fn horizontal_axis(&mut self, ticks: &[(f64, String)], lines: bool, title: &str) {
        let bottom = TOP + self.inner();
        let (top, right) = (if lines { TOP } else { bottom }, LEFT + self.width());
        let mut taken = f64::NEG_INFINITY;
        for (value, label) in ticks {
            let (x, half) = (self.px(*value), text_width(label) / 2.0);
            self.raw(&format!("<path class=\"grid\" d=\"M{x:.1},{top:.1}V{:.1}\"/>", bottom + 5.0));
            let end = (x + half).min(self.size.width);
            if end - 2.0 * half > taken + 5.0 {
                self.text(end - half, bottom + 19.0, "middle", "tick", label);
                taken = end;
            }
        }
        self.raw(&format!("<path class=\"axis\" d=\"M{LEFT},{bottom:.1}H{right:.1}\"/>"));
        self.text(f64::midpoint(LEFT, right), bottom + 38.0, "middle", "axis-title", title);
    }

    /// Text in the frame; `anchor` is `start`, `middle` or `end`.
    pub fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        let text = escape(text);
        self.raw(&format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"));
    }

    /// A rectangle from one value to another, and to the edge where there is none.
    pub fn area(&mut self, x: (Option<f64>, Option<f64>), y: (Option<f64>, Option<f64>), class: &str, title: &str) {
        let left = x.0.map_or(LEFT, |x| self.px(x));
        let right = x.1.map_or(LEFT + self.width(), |x| self.px(x));
        let bottom = y.0.map_or(TOP + self.inner(), |y| self.py(y));
        let top = y.1.map_or(TOP, |y| self.py(y));
        let (width, height) = ((right - left).max(0.0), (bottom - top).max(0.0));
        let place = format!("x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"");
        let title = if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
        self.raw(&format!("<rect class=\"{class}\" {place}>{title}</rect>"));
    }

    /// A line, with its name to be written at its end.
    pub fn line(&mut self, series: &Series) {
        let mut path = String::new();
        let mut lifted = true;
        for point in &series.points {
            if let Some((x, y)) = point {
                let letter = if lifted { 'M' } else { 'L' };
                // A line to itself makes a dot of a point without neighbours.
                let dot = if lifted { "h0" } else { "" };
                path += &format!("{letter}{:.1},{:.1}{dot}", self.px(*x), self.py(*y));
            }
            lifted = point.is_none();
        }
        let class = &series.class;
        self.raw(&format!("<path class=\"line {class}\" d=\"{path}\"/>"));
        if let Some((_, y)) = series.points.iter().rev().flatten().next() {
            self.ends.push((self.py(*y), shortened(&series.name, self.size), series.class.clone()));
        }
    }

    /// A bound from edge to edge, with words on it.
    pub fn limit(&mut self, y: f64, words: &str) {
        let (y, right) = (self.py(y), LEFT + self.width());
        self.raw(&format!("<path class=\"limit\" d=\"M{LEFT},{y:.1}H{right:.1}\"/>"));
        self.text(LEFT + 8.0, y - 7.0, "start", "limit-text", words);
    }

    /// A point that says `title` under the pointer.
    pub fn point(&mut self, marker: Marker, x: f64, y: f64, class: &str, title: &str) {
        let shape = marker.shape(self.px(x), self.py(y), 5.0);
        let kind = marker.class();
        self.raw(&format!("<g class=\"mark {kind} {class}\"><title>{}</title>{shape}</g>", escape(title)));
    }

    /// The plot, with the names of its lines beside their ends. `description` is for those who do not see it.
    pub fn finish(mut self, description: &str) -> String {
        let x = LEFT + self.width() + 7.0;
        let mut ends = std::mem::take(&mut self.ends);
        spread_out(&mut ends, TOP + 4.0, TOP + self.inner());
        for (y, name, class) in ends {
            self.text(x, y + 4.0, "start", &format!("name {class}"), &name);
        }
        format!(
            "<svg class=\"plot {}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">{}</svg>",
            self.size.class,
            self.size.width,
            self.height,
            escape(description),
            self.body
        )
    }
}

/// A name that leaves room for the plot beside it.
fn shortened(name: &str, size: Size) -> String {
    let most = if size.roomy { 18 } else { 10 };
    if name.chars().count() <= most { name.into() } else { name.chars().take(most - 1).chain(['…']).collect() }
}

/// Moves labels apart so that none covers another, within `top` and `bottom` as far as they fit.
fn spread_out(labels: &mut [(f64, String, String)], top: f64, bottom: f64) {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut least = top;
    for label in labels.iter_mut() {
        label.0 = label.0.max(least);
        least = label.0 + LINE;
    }
    let mut most = bottom;
    for label in labels.iter_mut().rev() {
        label.0 = label.0.min(most);
        most = label.0 - LINE;
    }
}

#[cfg(test)]
mod tests {
    use super::super::axis::Scale;
    use super::*;

    fn plot() -> Plot {
        let unit = || Axis::exact(Scale::Linear, 0.0, 1.0);
        Plot::new(SIZES[0], 300.0, unit(), unit(), &["name"])
    }

    #[test]
    fn labels_move_apart_and_stay_inside() {
        let mut labels: Vec<_> = [100.0, 98.0, 99.0, 20.0].map(|y| (y, String::new(), String::new())).into();
        spread_out(&mut labels, 10.0, 110.0);
        let places: Vec<f64> = labels.iter().map(|label| label.0).collect();
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= LINE), "{places:?}");
        assert!(places[0] >= 10.0 && places[3] <= 110.0, "{places:?}");
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(shortened("ringfence", SIZES[3]), "ringfence");
        assert_eq!(shortened("ringfence-next", SIZES[3]), "ringfence…");
    }

    #[test]
    fn a_gap_lifts_the_pen() {
        let mut plot = plot();
        let points = vec![Some((0.0, 0.0)), Some((0.2, 0.5)), None, Some((0.6, 0.5))];
        plot.line(&Series { name: "name".into(), class: "c0".into(), points });
        let svg = plot.finish("A line.");
        assert_eq!(svg.matches("h0").count(), 2, "{svg}");
        assert!(svg.contains(">name</text>"), "{svg}");
    }

    #[test]
    fn labels_of_an_axis_do_not_touch() {
        let mut plot = plot();
        let ticks: Vec<_> = (0..100).map(|n| (f64::from(n) / 100.0, format!("{n} seconds"))).collect();
        plot.horizontal_axis(&ticks, false, "time");
        let labels = plot.finish("An axis.").matches("class=\"tick\"").count();
        assert!((5..14).contains(&labels), "{labels}");
    }

    #[test]
    fn names_and_descriptions_are_escaped() {
        let mut plot = plot();
        plot.point(Marker::Cross, 0.5, 0.5, "c0", "<b>");
        plot.text(0.0, 0.0, "start", "tick", "a < b");
        let svg = plot.finish("\"&");
        assert!(svg.contains("&lt;b&gt;") && svg.contains("a &lt; b") && svg.contains("&quot;&amp;"), "{svg}");
    }
}
