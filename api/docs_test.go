package api_test

import (
	"bytes"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// element is a start tag of a page.
type element struct {
	name string
	attr map[string]string
}

// elements reads the page as XML that allows what HTML allows. It also checks
// that tags are closed in their order.
func elements(t *testing.T, page []byte) (all []element) {
	t.Helper()
	dec := xml.NewDecoder(bytes.NewReader(page))
	dec.Strict, dec.AutoClose, dec.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("the page at byte %d: %v", dec.InputOffset(), err)
		}
		if start, ok := tok.(xml.StartElement); ok {
			e := element{start.Name.Local, map[string]string{}}
			for _, a := range start.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			all = append(all, e)
		}
	}
}

func TestDocsPage(t *testing.T) {
	w := newFindWorld(t)
	a := w.do("GET", "/docs", nil)
	if a.status != 200 || a.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %v", a.status, a.header)
	}
	for path, item := range readOpenAPI(t, w.world).Paths {
		for _, op := range item.operations() {
			for _, text := range []string{`<article id="` + op.OperationID + `">`, `<a href="#` + op.OperationID + `">`, "<code>" + path + "</code>"} {
				if !bytes.Contains(a.body, []byte(text)) {
					t.Errorf("the page has no %s", text)
				}
			}
		}
	}
}

// The page must not depend on anybody: no script, no address but of this server.
func TestDocsPageLoadsNothingFromOutside(t *testing.T) {
	w := newWorld(t)
	a := w.do("GET", "/docs", nil)
	const policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	if got := a.header.Get("Content-Security-Policy"); got != policy {
		t.Errorf("Content-Security-Policy %q", got)
	}
	passive := []string{"html", "head", "meta", "title", "link", "body", "a", "header", "h1", "h2", "h3", "h4", "p", "div", "nav", "ul", "li",
		"span", "main", "section", "article", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "strong"}
	ids, links := map[string]int{}, []string{}
	for _, e := range elements(t, a.body) {
		if !slices.Contains(passive, e.name) {
			t.Errorf("the page has a <%s>", e.name)
		}
		for name, value := range e.attr {
			switch name {
			case "href":
				links = append(links, value)
			case "id":
				ids[value]++
			case "class", "lang", "charset", "name", "content", "rel", "aria-label", "role", "tabindex", "scope", "open":
			default:
				t.Errorf("<%s> has the attribute %s=%q", e.name, name, value)
			}
		}
	}
	if len(links) < 60 || len(ids) < 40 {
		t.Errorf("only %d links and %d ids were found", len(links), len(ids))
	}
	for _, link := range links {
		if fragment, ok := strings.CutPrefix(link, "#"); ok {
			if ids[fragment] == 0 {
				t.Errorf("%s leads nowhere", link)
			}
		} else if !strings.HasPrefix(link, "/") || strings.HasPrefix(link, "//") || w.do("GET", link, nil).status != 200 {
			t.Errorf("%s isn't of this server", link)
		}
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("id %s is there %d times", id, n)
		}
	}
}

// Whoever has only the server's name finds the rest: a page in a browser, JSON
// for everybody else.
func TestHome(t *testing.T) {
	w := newWorld(t)
	for accept, mediaType := range map[string]string{
		"": "application/json", "*/*": "application/json", "application/json": "application/json", "image/png": "application/json",
		"text/html": "text/html; charset=utf-8", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "text/html; charset=utf-8",
	} {
		a := w.do("GET", "/", nil, "Accept", accept)
		if a.status != 200 || a.header.Get("Content-Type") != mediaType || a.header.Get("Vary") != "Accept" {
			t.Errorf("Accept %q: %d %v", accept, a.status, a.header)
		}
		if !bytes.Contains(a.body, []byte(w.identity.Origin)) || !bytes.Contains(a.body, []byte(w.identity.Network)) {
			t.Errorf("Accept %q: the log isn't named:\n%s", accept, a.body)
		}
		for _, link := range []string{"/docs", "/openapi.json", "/v1/status", "/v1/identity", "/log/checkpoint"} {
			if !bytes.Contains(a.body, []byte(`"`+link+`"`)) {
				t.Errorf("Accept %q: nothing leads to %s:\n%s", accept, link, a.body)
			}
		}
	}
	page := w.do("GET", "/", nil, "Accept", "text/html")
	if policy := page.header.Get("Content-Security-Policy"); policy != w.do("GET", "/docs", nil).header.Get("Content-Security-Policy") {
		t.Errorf("Content-Security-Policy %q", policy)
	}
	if !bytes.Contains(page.body, []byte("no evidential value")) {
		t.Error("the page doesn't say that this is a test network")
	}
	links := 0
	for _, e := range elements(t, page.body) {
		if link, ok := e.attr["href"]; ok {
			links++
			if a := w.do("GET", link, nil); a.status != 200 && link != "/log/checkpoint" { // there is none yet
				t.Errorf("%s: %d", link, a.status)
			}
		}
		if e.attr["src"] != "" || e.name == "script" {
			t.Errorf("the page loads %v", e)
		}
	}
	if links != 6 {
		t.Errorf("%d links", links)
	}
}

func TestDocsStyle(t *testing.T) {
	a := newWorld(t).do("GET", "/docs/style.css", nil)
	if a.status != 200 || a.header.Get("Content-Type") != "text/css; charset=utf-8" {
		t.Fatalf("%d %v", a.status, a.header)
	}
	if bytes.Contains(a.body, []byte("url(")) || bytes.Contains(a.body, []byte("@import")) {
		t.Error("the style loads something")
	}
	if strings.Count(string(a.body), "{") != strings.Count(string(a.body), "}") {
		t.Error("a bracket of the style isn't closed")
	}
}

// The two color schemes must stay readable: WCAG 2.2, 1.4.3 asks for a contrast
// of 4.5 to 1.
func TestDocsContrast(t *testing.T) {
	style := string(newWorld(t).do("GET", "/docs/style.css", nil).body)
	light, dark, ok := strings.Cut(style, "@media (prefers-color-scheme: dark)")
	if !ok {
		t.Fatal("there is no dark scheme")
	}
	for scheme, text := range map[string]string{"light": light, "dark": dark} {
		color := map[string]float64{}
		for _, m := range regexp.MustCompile(`--(\w+): #(\w{6})`).FindAllStringSubmatch(text, -1) {
			if _, seen := color[m[1]]; !seen {
				color[m[1]] = luminance(t, m[2])
			}
		}
		for _, pair := range [][2]string{
			{"text", "page"}, {"text", "card"}, {"text", "badge"}, {"soft", "page"}, {"soft", "card"}, {"link", "page"}, {"link", "card"},
			{"get", "card"}, {"get", "page"}, {"post", "card"}, {"post", "page"},
		} {
			a, b := color[pair[0]], color[pair[1]]
			if got := (max(a, b) + 0.05) / (min(a, b) + 0.05); got < 4.5 {
				t.Errorf("%s: %s on %s has a contrast of %.1f", scheme, pair[0], pair[1], got)
			}
		}
	}
}

// luminance as WCAG defines it for sRGB.
func luminance(t *testing.T, hexColor string) float64 {
	t.Helper()
	raw, err := hex.DecodeString(hexColor)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		c := float64(raw[i]) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}
