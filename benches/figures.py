"""What was measured, as numbers, tables and plots."""

import statistics


class Series:
    """Measurements of one thing."""

    def __init__(self, title):
        self.title = title
        self.values = []
        self.failures = []
        # How many system calls that was, where it is known.
        self.calls = 0

    def add(self, value):
        self.values.append(value)

    def fail(self, why):
        self.failures.append(str(why))

    @property
    def median(self):
        return statistics.median(self.values) if self.values else None

    def quartiles(self):
        if len(self.values) < 2:
            return self.median, self.median
        first, _, third = statistics.quantiles(self.values, n=4, method='inclusive')
        return first, third

    def row(self, digits=2):
        """Title, median, least, quartiles, number, failures."""
        if not self.values:
            return [self.title, '–', '–', '–', '0', str(len(self.failures))]
        low, high = self.quartiles()
        return [self.title, number(self.median, digits), number(min(self.values), digits),
                f'{number(low, digits)} – {number(high, digits)}', str(len(self.values)),
                str(len(self.failures))]


HEAD = ['median', 'least', 'quartiles', 'runs', 'failed']


def number(value, digits=2):
    if value is None:
        return '–'
    if isinstance(value, int):
        return f'{value:,}'
    if value >= 100:
        digits = min(digits, 0 if value >= 1000 else 1)
    return f'{value:,.{digits}f}'


def ratio(one, other):
    return one / other if one is not None and other else None


def table(head, rows):
    lines = ['| ' + ' | '.join(head) + ' |', '|---' + '|---:' * (len(head) - 1) + '|']
    lines += ['| ' + ' | '.join(map(str, row)) + ' |' for row in rows]
    return '\n'.join(lines) + '\n'


def plot(charts):
    """Bar charts below each other, as an SVG that suits light and dark pages. A chart is its title
    and its bars, each with its label, its value and whether it is ours."""
    width, left, bar, gap, right = 760, 250, 16, 8, 70
    parts, y = [], 0
    for title, bars in charts:
        bars = [one for one in bars if one[1] is not None]
        if not bars:
            continue
        y += 34
        parts.append(f'<text class="title" x="8" y="{y - 10}">{escaped(title)}</text>')
        most = max(value for _, value, _ in bars)
        for label, value, ours in bars:
            length = max(1.0, (width - left - right) * value / most)
            kind = 'ours' if ours else 'other'
            parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">'
                         f'{escaped(label)}</text>')
            parts.append(f'<rect class="{kind}" x="{left}" y="{y}" width="{length:.1f}" '
                         f'height="{bar}" rx="2"/>')
            parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 12}">'
                         f'{number(value)}</text>')
            y += bar + gap
        y += 10
    style = '''
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 13px; }
  .ours { fill: #0969da; } .other { fill: #8c959f; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .ours { fill: #4493f8; } .other { fill: #6e7681; }
  }'''
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" '
            f'height="{y}" role="img">\n<style>{style}\n</style>\n' + '\n'.join(parts)
            + '\n</svg>\n')


def escaped(text):
    return text.replace('&', '&amp;').replace('<', '&lt;')
