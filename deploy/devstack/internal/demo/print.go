package demo

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	nameWidth  = 13
	detailFrom = 4 + 7 + 8 + 2 + nameWidth + 1 // column in which details begin
)

// printer writes what people read: a heading for each act, below it a line for
// each step with the time since the start and what the step took.
type printer struct {
	w      io.Writer
	colour bool
	now    func() time.Time
	start  time.Time
	acts   int

	mu sync.Mutex // of line: the stack starts its servers side by side
}

const (
	bold  = "1"
	dim   = "2"
	green = "32"
	red   = "31"
)

func (p *printer) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// since is the time since the start.
func (p *printer) since() time.Duration { return p.now().Sub(p.start) }

// act begins an act.
func (p *printer) act(title, what string) {
	p.acts++
	fmt.Fprintf(p.w, "\n%s\n", p.paint(bold, fmt.Sprintf("%d. %s", p.acts, title)))
	p.text(what + "\n")
}

// text is a paragraph.
func (p *printer) text(what string) {
	for _, line := range strings.Split(what, "\n") {
		fmt.Fprintln(p.w, strings.TrimRight("   "+line, " "))
	}
}

// step is a step that was taken. Further lines of detail stand below the first.
func (p *printer) step(name, detail string, took time.Duration) {
	times := fmt.Sprintf("%6.1fs %7s", p.since().Seconds(), fmt.Sprintf("+%.1fs", took.Seconds()))
	p.line(p.paint(dim, times), name, detail)
}

// more is a line of the step before.
func (p *printer) more(name, detail string) { p.line(strings.Repeat(" ", 15), name, detail) }

func (p *printer) line(times, name, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	detail = strings.ReplaceAll(detail, "\n", "\n"+strings.Repeat(" ", detailFrom))
	fmt.Fprintf(p.w, "    %s  %s %s\n", times, p.paint(bold, fmt.Sprintf("%-*s", nameWidth, name)), detail)
}

// command shows what is run.
func (p *printer) command(args ...string) {
	fmt.Fprintf(p.w, "   %s\n", p.paint(bold, "$ "+strings.Join(args, " ")))
}

// quote shows what a program said, as it said it.
func (p *printer) quote(text string) {
	for line := range strings.Lines(strings.TrimSpace(text)) {
		fmt.Fprintf(p.w, "     %s\n", strings.TrimRight(line, "\n"))
	}
}

// quoteWrapped breaks long lines between words; what follows stands indent
// columns to the right.
func (p *printer) quoteWrapped(text string, indent int) {
	for line := range strings.Lines(strings.TrimSpace(text)) {
		p.quote(wrap(strings.TrimRight(line, "\n"), wrapAt, indent))
	}
}

// wrapAt is the width of wrapped lines.
const wrapAt = 104

func wrap(line string, width, indent int) string {
	var b strings.Builder
	for len(line) > width {
		at := strings.LastIndexByte(line[:width+1], ' ')
		if strings.TrimSpace(line[:max(at, 0)]) == "" { // one word, longer than the line
			break
		}
		b.WriteString(strings.TrimRight(line[:at], " ") + "\n")
		line = strings.Repeat(" ", indent) + strings.TrimLeft(line[at:], " ")
	}
	return b.String() + line
}

// outcome says that what was expected has happened.
func (p *printer) outcome(format string, args ...any) {
	fmt.Fprintf(p.w, "   %s %s\n\n", p.paint(green, "as expected:"), fmt.Sprintf(format, args...))
}

// failed says where the demo ended.
func (p *printer) failed(step string, err error) {
	fmt.Fprintf(p.w, "\n%s after %.1f s, in the step %q:\n", p.paint(red, "FAILED"), p.since().Seconds(), step)
	p.quote(err.Error())
}

// handler shows what the stack logs, such as that a server is built first.
type handler struct {
	p     *printer
	attrs []slog.Attr
}

func (h handler) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (h handler) Handle(_ context.Context, r slog.Record) error {
	words := []string{r.Message}
	show := func(a slog.Attr) bool {
		words = append(words, a.Key+" "+a.Value.String())
		return true
	}
	for _, a := range h.attrs {
		show(a)
	}
	r.Attrs(show)
	h.p.more("...", strings.Join(words, ", "))
	return nil
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.p, append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

func (h handler) WithGroup(string) slog.Handler { return h }
