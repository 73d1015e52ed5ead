package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

//go:embed docs.html
var docsTemplate string

//go:embed docs.css
var docsStyle []byte

// docsPolicy lets the page load its style from here, and nothing else from
// anywhere: no script, no image, no font, no frame.
const docsPolicy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// getDocs shows openapi.json to people. The page is made once, when the server is.
func (s *Server) getDocs(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Security-Policy", docsPolicy)
	writePublic(w, r, "text/html; charset=utf-8", s.docs)
	return nil
}

func (s *Server) getStyle(w http.ResponseWriter, r *http.Request) error {
	writePublic(w, r, "text/css; charset=utf-8", docsStyle)
	return nil
}

// docsPage is what docs.html shows.
type docsPage struct {
	Title, Summary, Description string
	Sections                    []docsSection
	Schemas                     []docsSchema
}

type docsSection struct {
	Name, Description string
	Operations        []docsOperation
}

type docsOperation struct {
	Method, Path string
	*operation
	Bodies  []docsMedia
	Answers []docsAnswer
}

type docsAnswer struct {
	Status string
	response
	Media []docsMedia
}

type docsMedia struct {
	Type     string
	Schema   *schema
	Examples []docsExample
}

type docsExample struct{ Summary, Text string }

type docsSchema struct {
	Name    string
	Schema  *schema
	Members []docsMember
}

type docsMember struct {
	Name     string
	Required bool
	Schema   *schema
}

// renderDocs makes the page of an OpenAPI document.
func renderDocs(data []byte) ([]byte, error) {
	d, err := parseDescription(data)
	if err != nil {
		return nil, err
	}
	page := docsPage{Title: d.Info.Title, Summary: d.Info.Summary, Description: d.Info.Description}
	for _, tag := range d.Tags {
		section := docsSection{Name: tag.Name, Description: tag.Description}
		for _, path := range slices.Sorted(maps.Keys(d.Paths)) {
			item := d.Paths[path]
			for _, o := range []docsOperation{
				{"GET", path, item.Get, nil, nil}, {"POST", path, item.Post, nil, nil}, {"PATCH", path, item.Patch, nil, nil},
				{"DELETE", path, item.Delete, nil, nil}, {"OPTIONS", path, item.Options, nil, nil},
			} {
				if o.operation == nil || !slices.Contains(o.Tags, tag.Name) {
					continue
				}
				if err := o.fill(); err != nil {
					return nil, fmt.Errorf("%s %s: %w", o.Method, path, err)
				}
				section.Operations = append(section.Operations, o)
			}
		}
		page.Sections = append(page.Sections, section)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		page.Schemas = append(page.Schemas, describeSchema(name, d.Components.Schemas[name]))
	}
	return page.render()
}

func (p docsPage) render() ([]byte, error) {
	t, err := template.New("docs").Funcs(template.FuncMap{
		"prose": prose, "phrase": phrase, "kind": kindOf, "anchor": anchorOf, "statusName": statusName,
	}).Parse(docsTemplate)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, p); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// fill puts bodies and answers into the order in which they are shown.
func (o *docsOperation) fill() (err error) {
	if o.RequestBody != nil {
		if o.Bodies, err = describeMedia(o.RequestBody.Content); err != nil {
			return err
		}
	}
	for _, status := range slices.Sorted(maps.Keys(o.Responses)) {
		a := docsAnswer{Status: status, response: o.Responses[status]}
		if a.Media, err = describeMedia(a.Content); err != nil {
			return err
		}
		o.Answers = append(o.Answers, a)
	}
	return nil
}

func describeMedia(content map[string]media) (list []docsMedia, err error) {
	for _, mediaType := range slices.Sorted(maps.Keys(content)) {
		m := content[mediaType]
		shown := docsMedia{Type: mediaType, Schema: m.Schema}
		if m.Example != nil {
			shown.Examples, err = appendExample(shown.Examples, "Example", m.Example)
		}
		for _, name := range slices.Sorted(maps.Keys(m.Examples)) {
			if err == nil {
				shown.Examples, err = appendExample(shown.Examples, m.Examples[name].Summary, m.Examples[name].Value)
			}
		}
		if err != nil {
			return nil, err
		}
		list = append(list, shown)
	}
	return list, nil
}

// appendExample shows a string as it is, and anything else as indented JSON.
func appendExample(list []docsExample, summary string, value json.RawMessage) ([]docsExample, error) {
	var text string
	if json.Unmarshal(value, &text) == nil {
		return append(list, docsExample{summary, text}), nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, value, "", "  "); err != nil {
		return nil, err
	}
	return append(list, docsExample{summary, out.String()}), nil
}

func describeSchema(name string, s *schema) docsSchema {
	shown := docsSchema{Name: name, Schema: s}
	for _, member := range slices.Sorted(maps.Keys(s.Properties)) {
		shown.Members = append(shown.Members, docsMember{member, slices.Contains(s.Required, member), s.Properties[member]})
	}
	return shown
}

// anchorOf is the fragment of a schema's place on the page.
func anchorOf(ref string) string { return "schema-" + lastOf(ref) }

// kindOf says in a few words what values a schema allows.
func kindOf(s *schema) string {
	switch {
	case s == nil:
		return "any"
	case s.Const != "":
		return fmt.Sprintf("%q", s.Const)
	case s.Enum != nil:
		return "one of " + strings.Join(s.Enum, ", ")
	case s.Format != "":
		return s.Type + ", " + s.Format
	case s.Type == "integer" && s.Minimum != nil && s.Maximum != nil:
		return fmt.Sprintf("integer, %d to %d", *s.Minimum, *s.Maximum)
	case s.MaxLength != nil:
		return fmt.Sprintf("%s, up to %d", s.Type, *s.MaxLength)
	}
	return s.Type
}

// prose is a text of the document as HTML, with empty lines between paragraphs.
func prose(text string) template.HTML {
	var out strings.Builder
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		out.WriteString("<p>" + string(phrase(paragraph)) + "</p>")
	}
	return template.HTML(out.String()) //nolint:gosec // phrase escapes
}

// phrase is a text as HTML: escaped, with what stands between backticks as code.
func phrase(text string) template.HTML {
	var out strings.Builder
	for i, piece := range strings.Split(text, "`") {
		piece = template.HTMLEscapeString(piece)
		if i%2 == 1 {
			piece = "<code>" + piece + "</code>"
		}
		out.WriteString(piece)
	}
	return template.HTML(out.String()) //nolint:gosec // every piece is escaped above
}

// statusName is what HTTP calls a status: "Not Found".
func statusName(status string) string {
	n, _ := strconv.Atoi(status) // a test sees that it is a number
	return http.StatusText(n)
}
