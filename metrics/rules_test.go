package metrics_test

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// exported lists every name that a query can use.
func exported(t *testing.T) (names []string) {
	t.Helper()
	w := newWorld(t)
	w.busy()
	for _, f := range families(w.scrape(t)) {
		names = append(names, f.Name)
		if f.Type == "histogram" {
			names = append(names, f.Name+"_bucket", f.Name+"_sum", f.Name+"_count")
		}
	}
	return names
}

// checkQuery looks for every metric that a query asks for.
func checkQuery(t *testing.T, names []string, where, query string) {
	t.Helper()
	used := regexp.MustCompile(`calpe_[a-z0-9_]+`).FindAllString(query, -1)
	if len(used) == 0 && !strings.Contains(query, "up{") {
		t.Errorf("%s: the query %q asks for nothing of ours", where, query)
	}
	for _, name := range used {
		if !slices.Contains(names, name) {
			t.Errorf("%s asks for %s, which the server doesn't have", where, name)
		}
	}
}

// anchorOf is the address that a heading of a Markdown page has on GitHub.
func anchorOf(heading string) string {
	dropped := regexp.MustCompile(`[^a-z0-9 _-]`)
	return strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// Each alarm asks for what there is, and says what to do about it.
func TestAlerts(t *testing.T) {
	names := exported(t)
	rules, err := os.ReadFile("../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(page), -1) {
		headings[anchorOf(m[1])] = true
	}
	alerts := strings.Split(string(rules), "\n      - alert: ")[1:]
	for _, alert := range alerts {
		name, body, _ := strings.Cut(alert, "\n")
		field := func(key string) string {
			m := regexp.MustCompile(`(?m)^\s+` + key + `: (.+)$`).FindStringSubmatch(body)
			if m == nil {
				t.Errorf("%s has no %s", name, key)
				return ""
			}
			return m[1]
		}
		checkQuery(t, names, name, field("expr"))
		if s := field("labels"); s != "{severity: critical}" && s != "{severity: warning}" {
			t.Errorf("%s has labels %s", name, s)
		}
		if field("summary") == "" {
			t.Errorf("%s has no summary", name)
		}
		_, at, ok := strings.Cut(strings.Trim(field("runbook"), `"`), "docs/operations.md#")
		if !ok || !headings[at] {
			t.Errorf("%s: docs/operations.md has no heading for #%s", name, at)
		}
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/operations.md doesn't name %s", name)
		}
	}
	if len(alerts) < 15 {
		t.Errorf("only %d alarms", len(alerts))
	}
	for _, m := range regexp.MustCompile("`(Calpe[A-Za-z]+)`").FindAllStringSubmatch(string(page), -1) {
		if !strings.Contains(string(rules), "- alert: "+m[1]+"\n") {
			t.Errorf("docs/operations.md names the alarm %s, which there isn't", m[1])
		}
	}
}

// Each panel asks for what there is.
func TestDashboard(t *testing.T) {
	names := exported(t)
	text, err := os.ReadFile("../deploy/grafana/calpe.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Title, UID string
		Panels     []struct {
			Title, Type string
			GridPos     struct{ X, Y, W, H int } `json:"gridPos"`
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.Title == "" || dashboard.UID == "" || len(dashboard.Panels) < 10 {
		t.Errorf("%q %q has %d panels", dashboard.Title, dashboard.UID, len(dashboard.Panels))
	}
	taken := map[[2]int]string{}
	for _, p := range dashboard.Panels {
		if p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q has %d queries", p.Title, len(p.Targets))
		}
		for _, target := range p.Targets {
			checkQuery(t, names, p.Title, target.Expr)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("panels %q and %q overlap", other, p.Title)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

// Every log event that the page lists is a message of the program, at that level.
func TestLogEventsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Log events\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var code strings.Builder
	for _, file := range []string{
		"../anchor/alarm.go", "../anchor/fee.go", "../anchor/follow.go", "../anchor/funds.go", "../anchor/monitor.go", "../anchor/stamp/alarm.go", "../anchor/stamp/blocks.go", "../intake/gate.go", "../cmd/calped/serve.go",
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		code.Write(text)
	}
	rows := 0
	for line := range strings.SplitSeq(section, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		rows++
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1]+cells[4], -1) {
			if !strings.Contains(code.String(), `"`+m[1]+`"`) {
				t.Errorf("nothing logs %q", m[1])
			}
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[3], -1) {
			if !strings.Contains(code.String(), `("`+m[1]+`", `) {
				t.Errorf("no line has the attribute %q of %s", m[1], cells[1])
			}
		}
	}
	if rows < 15 {
		t.Errorf("the page lists %d events", rows)
	}
}
