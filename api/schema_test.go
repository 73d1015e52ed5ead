package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/calpe/calpe/api"
)

// openAPI is an OpenAPI 3.1 document, as far as openapi.json uses the format.
// What isn't here makes reading it fail, so that no word of it goes unchecked.
type openAPI struct {
	OpenAPI string `json:"openapi"`
	Info    struct {
		Title, Version, Summary, Description string
		License                              struct{ Name, Identifier string }
	}
	Servers    []struct{ URL string }
	Tags       []struct{ Name, Description string }
	Paths      map[string]pathItem
	Components struct {
		SecuritySchemes map[string]struct{ Type, Scheme, Description string }
		Parameters      map[string]*apiParameter
		Responses       map[string]*apiResponse
		Headers         map[string]*apiHeader
		Schemas         map[string]*apiSchema
	}
}

type pathItem struct {
	Route                             string `json:"x-route"` // of the router, where it says it in another way
	Get, Post, Patch, Delete, Options *apiOperation
}

type apiOperation struct {
	OperationID          string
	Tags                 []string
	Summary, Description string
	Security             []map[string][]string
	Parameters           []*apiParameter
	RequestBody          *struct {
		Required bool
		Content  map[string]apiMedia
	}
	Responses map[string]*apiResponse
}

type apiParameter struct {
	Ref         string `json:"$ref"`
	Name, In    string
	Required    bool
	Description string
	Schema      *apiSchema
	Example     any
}

type apiResponse struct {
	Ref         string `json:"$ref"`
	Description string
	Headers     map[string]*apiHeader
	Content     map[string]apiMedia
}

type apiHeader struct {
	Ref         string `json:"$ref"`
	Description string
	Required    bool
	Schema      *apiSchema
}

type apiMedia struct {
	Schema   *apiSchema
	Example  any
	Examples map[string]struct {
		Summary string
		Value   any
	}
}

// apiSchema is a JSON Schema. Other than the standard, an object has no members
// but those that are named, unless it says additionalProperties: what the server
// answers must be described.
type apiSchema struct {
	Ref                                string `json:"$ref"`
	Type, Format, Description, Pattern string
	Enum                               []string
	Const                              string
	Default                            any
	Properties                         map[string]*apiSchema
	AdditionalProperties               *additional
	Required                           []string
	Items                              *apiSchema
	OneOf                              []*apiSchema
	Minimum, Maximum                   *float64
	MinLength, MaxLength, MaxItems     *int
}

// additional is a schema of members that aren't named, or whether there may be any.
type additional struct {
	any    bool
	schema *apiSchema
}

func (a *additional) UnmarshalJSON(data []byte) error {
	if json.Unmarshal(data, &a.any) == nil {
		return nil
	}
	return strictly(data, &a.schema)
}

func strictly(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// readOpenAPI reads openapi.json as the server gives it, and follows its
// references.
func readOpenAPI(t *testing.T, w *world) *openAPI {
	t.Helper()
	d := new(openAPI)
	if err := strictly(w.do("GET", "/openapi.json", nil).body, d); err != nil {
		t.Fatalf("openapi.json: %v", err)
	}
	for _, r := range d.Components.Responses {
		d.resolveHeaders(t, r)
	}
	for path, item := range d.Paths {
		for method, op := range item.operations() {
			for i, p := range op.Parameters {
				if p.Ref != "" {
					op.Parameters[i] = referred(t, d.Components.Parameters, "parameters", p.Ref)
				}
			}
			for status, r := range op.Responses {
				if r.Ref != "" {
					op.Responses[status] = referred(t, d.Components.Responses, "responses", r.Ref)
				}
				d.resolveHeaders(t, op.Responses[status])
			}
			if op.OperationID == "" || op.Summary == "" || op.Description == "" || len(op.Tags) != 1 || op.Security == nil {
				t.Errorf("%s %s: an operation has an id, a tag, a summary, a description and a security", method, path)
			}
		}
	}
	return d
}

func (d *openAPI) resolveHeaders(t *testing.T, r *apiResponse) {
	t.Helper()
	for name, h := range r.Headers {
		if h.Ref != "" {
			r.Headers[name] = referred(t, d.Components.Headers, "headers", h.Ref)
		}
	}
}

func referred[T any](t *testing.T, components map[string]*T, kind, ref string) *T {
	t.Helper()
	name, ok := strings.CutPrefix(ref, "#/components/"+kind+"/")
	if !ok || components[name] == nil {
		t.Fatalf("%s refers to nothing", ref)
	}
	return components[name]
}

// operations are those of a path, by method.
func (i pathItem) operations() map[string]*apiOperation {
	all := map[string]*apiOperation{"GET": i.Get, "POST": i.Post, "PATCH": i.Patch, "DELETE": i.Delete, "OPTIONS": i.Options}
	maps.DeleteFunc(all, func(_ string, op *apiOperation) bool { return op == nil })
	return all
}

// scope that a token needs for the operation; empty: none is needed.
func (op *apiOperation) scope() string {
	if len(op.Security) == 0 {
		return ""
	}
	return op.Security[0]["token"][0]
}

// check validates a value, as package json reads it into an any; the error says
// where it differs.
func (d *openAPI) check(s *apiSchema, v any) error {
	if s.Ref != "" {
		s = d.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
		if s == nil {
			return fmt.Errorf("a reference to nothing")
		}
	}
	if s.OneOf != nil {
		return d.checkOneOf(s, v)
	}
	switch v := v.(type) {
	case string:
		return s.checkString(v)
	case float64:
		return s.checkNumber(v)
	case bool:
		return want(s.Type == "boolean", "%v where %s belongs", v, s.Type)
	case []any:
		return d.checkArray(s, v)
	case map[string]any:
		return d.checkObject(s, v)
	}
	return fmt.Errorf("%v where %s belongs", v, s.Type)
}

func want(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func (d *openAPI) checkOneOf(s *apiSchema, v any) error {
	fits := 0
	for _, one := range s.OneOf {
		if d.check(one, v) == nil {
			fits++
		}
	}
	return want(fits == 1, "fits %d of %d schemas", fits, len(s.OneOf))
}

func (s *apiSchema) checkString(v string) error {
	length := utf8.RuneCountInString(v)
	switch {
	case s.Type != "string":
		return fmt.Errorf("%.40q where %s belongs", v, s.Type)
	case s.Const != "" && v != s.Const, s.Enum != nil && !slices.Contains(s.Enum, v):
		return fmt.Errorf("%.40q is none of %q%q", v, s.Const, s.Enum)
	case s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(v):
		return fmt.Errorf("%.40q doesn't match %s", v, s.Pattern)
	case s.MinLength != nil && length < *s.MinLength, s.MaxLength != nil && length > *s.MaxLength:
		return fmt.Errorf("%.40q has %d characters", v, length)
	}
	switch s.Format {
	case "date-time":
		_, err := time.Parse(time.RFC3339, v)
		return err
	case "", "binary", "uuid": // a uuid has a pattern too
		return nil
	}
	return fmt.Errorf("format %q isn't known to this test", s.Format)
}

func (s *apiSchema) checkNumber(v float64) error {
	switch {
	case s.Type != "integer" || v != float64(int64(v)):
		return fmt.Errorf("%v where %s belongs", v, s.Type)
	case s.Minimum != nil && v < *s.Minimum, s.Maximum != nil && v > *s.Maximum:
		return fmt.Errorf("%v is out of bounds", v)
	}
	return nil
}

func (d *openAPI) checkArray(s *apiSchema, v []any) error {
	if s.Type != "array" || s.Items == nil || s.MaxItems != nil && len(v) > *s.MaxItems {
		return fmt.Errorf("a list of %d where %s belongs", len(v), s.Type)
	}
	for i, e := range v {
		if err := d.check(s.Items, e); err != nil {
			return fmt.Errorf("%d: %w", i, err)
		}
	}
	return nil
}

func (d *openAPI) checkObject(s *apiSchema, v map[string]any) error {
	if s.Type != "object" {
		return fmt.Errorf("an object where %s belongs", s.Type)
	}
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			return fmt.Errorf("no member %q", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		member := s.Properties[name]
		if member == nil && s.AdditionalProperties != nil {
			if s.AdditionalProperties.any {
				continue
			}
			member = s.AdditionalProperties.schema
		}
		if member == nil {
			return fmt.Errorf("member %q isn't described", name)
		}
		if err := d.check(member, v[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// The checker would pass everything if it were wrong in the right way.
func TestSchemaChecker(t *testing.T) {
	d := readOpenAPI(t, newWorld(t))
	for _, c := range []struct {
		schema, value string
		fits          bool
	}{
		{`{"type":"string"}`, `"x"`, true},
		{`{"type":"string"}`, `5`, false},
		{`{"type":"string"}`, `null`, false},
		{`{"type":"boolean"}`, `"true"`, false},
		{`{"type":"string","maxLength":1}`, `"é"`, true},
		{`{"type":"string","maxLength":1}`, `"xy"`, false},
		{`{"type":"string","minLength":1}`, `""`, false},
		{`{"type":"string","pattern":"^a$"}`, `"ab"`, false},
		{`{"type":"string","enum":["a"]}`, `"b"`, false},
		{`{"type":"string","const":"a"}`, `"b"`, false},
		{`{"type":"string","format":"date-time"}`, `"2026-11-31T00:00:00Z"`, false},
		{`{"type":"string","format":"no such"}`, `"x"`, false},
		{`{"type":"integer","minimum":1,"maximum":2}`, `2`, true},
		{`{"type":"integer","minimum":1,"maximum":2}`, `3`, false},
		{`{"type":"integer","minimum":1}`, `0`, false},
		{`{"type":"integer"}`, `1.5`, false},
		{`{"type":"array","items":{"type":"integer"}}`, `[1,"x"]`, false},
		{`{"type":"array","items":{"type":"integer"},"maxItems":1}`, `[1,2]`, false},
		{`{"type":"object","properties":{"a":{"type":"integer"}}}`, `{"a":1}`, true},
		{`{"type":"object","properties":{"a":{"type":"integer"}}}`, `{"b":1}`, false},
		{`{"type":"object","properties":{"a":{"type":"integer"}}}`, `{"a":"x"}`, false},
		{`{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}`, `{}`, false},
		{`{"type":"object","additionalProperties":true}`, `{"a":"x"}`, true},
		{`{"type":"object","additionalProperties":false}`, `{"a":"x"}`, false},
		{`{"type":"object","additionalProperties":{"type":"string"}}`, `{"a":5}`, false},
		{`{"oneOf":[{"type":"string"},{"type":"integer"}]}`, `5`, true},
		{`{"oneOf":[{"type":"integer"},{"type":"integer"}]}`, `5`, false},
		{`{"$ref":"#/components/schemas/State"}`, `"final"`, true},
		{`{"$ref":"#/components/schemas/State"}`, `"finished"`, false},
		{`{"$ref":"#/components/schemas/Missing"}`, `"final"`, false},
	} {
		var s apiSchema
		var v any
		if err := strictly([]byte(c.schema), &s); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(c.value), &v); err != nil {
			t.Fatal(err)
		}
		if err := d.check(&s, v); (err == nil) != c.fits {
			t.Errorf("%s with %s: %v", c.schema, c.value, err)
		}
	}
}

// codesIn are the error codes that a description names between backticks.
func codesIn(description string) (codes []string) {
	all := api.AnswerOf()
	for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(description, -1) {
		if _, ok := all[m[1]]; ok {
			codes = append(codes, m[1])
		}
	}
	return codes
}
