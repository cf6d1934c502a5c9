"""Curves as plain SVG text."""

from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 70, 150, 40, 50
COLOURS = ["#1b6ca8", "#c0392b", "#2e8b57", "#8e6c1f"]


def ticks(most):
    """Four to nine round numbers from 0."""
    step = 1.0
    while most / step > 9:
        step *= 2 if str(step)[0] in "15" else 2.5
    while most / step < 4:
        step /= 2
    return [step * i for i in range(int(most / step) + 1)]


def curves(title, x_name, y_name, lines):
    """One line for each name, through its points (x, y)."""
    points = [point for line in lines.values() for point in line]
    most_x, most_y = max(x for x, _ in points) or 1, max(y for _, y in points) * 1.1

    def at(x, y):
        return (LEFT + x / most_x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y / most_y * (HEIGHT - TOP - BOTTOM))

    def text(x, y, words, anchor="middle", more=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
           text(WIDTH / 2, 20, title, more='font-size="14"'),
           text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_name),
           text(16, HEIGHT / 2, y_name, more=f'transform="rotate(-90 16 {HEIGHT / 2})"')]
    for y in ticks(most_y):
        (x0, height), (x1, _) = at(0, y), at(most_x, y)
        out += [f'<path d="M{x0:.1f} {height:.1f}H{x1:.1f}" stroke="#ddd"/>', text(x0 - 6, height + 4, f"{y:g}", "end")]
    for x in ticks(most_x):
        across, low = at(x, 0)
        out += [f'<path d="M{across:.1f} {low:.1f}v4" stroke="#888"/>', text(across, low + 16, f"{x:,.0f}")]
    for colour, (name, line) in zip(COLOURS, lines.items()):
        places = [at(x, y) for x, y in sorted(line)]
        out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
                   + " ".join(f"{x:.1f},{y:.1f}" for x, y in places) + '"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        out.append(text(places[-1][0] + 8, places[-1][1] + 4, name, "start", f'fill="{colour}"'))
    return "\n".join(out + ["</svg>"]) + "\n"
