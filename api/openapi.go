package api

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// openapi.json is written by hand. Tests hold it against the routes, the error
// codes, and every answer that the server gives.
//
//go:embed openapi.json
var openAPI []byte

// description is the part of an OpenAPI 3.1 document that the page of it shows.
type description struct {
	Info struct {
		Title       string `json:"title"`
		Version     string `json:"version"`
		Summary     string `json:"summary"`
		Description string `json:"description"`
	} `json:"info"`
	Tags []struct {
		Name        string `json:"name"`
		Description string `json:"description"`
	} `json:"tags"`
	Paths      map[string]pathItem `json:"paths"`
	Components struct {
		Parameters map[string]parameter `json:"parameters"`
		Responses  map[string]response  `json:"responses"`
		Headers    map[string]header    `json:"headers"`
		Schemas    map[string]*schema   `json:"schemas"`
	} `json:"components"`
}

type pathItem struct {
	Get     *operation `json:"get"`
	Post    *operation `json:"post"`
	Patch   *operation `json:"patch"`
	Delete  *operation `json:"delete"`
	Options *operation `json:"options"`
}

type operation struct {
	ID          string                `json:"operationId"`
	Tags        []string              `json:"tags"`
	Summary     string                `json:"summary"`
	Description string                `json:"description"`
	Security    []map[string][]string `json:"security"`
	Parameters  []parameter           `json:"parameters"`
	RequestBody *struct {
		Content map[string]media `json:"content"`
	} `json:"requestBody"`
	Responses map[string]response `json:"responses"`
}

type parameter struct {
	Ref         string          `json:"$ref"`
	Name        string          `json:"name"`
	In          string          `json:"in"`
	Required    bool            `json:"required"`
	Description string          `json:"description"`
	Schema      *schema         `json:"schema"`
	Example     json.RawMessage `json:"example"`
}

type response struct {
	Ref         string            `json:"$ref"`
	Description string            `json:"description"`
	Headers     map[string]header `json:"headers"`
	Content     map[string]media  `json:"content"`
}

type header struct {
	Ref         string `json:"$ref"`
	Description string `json:"description"`
}

type media struct {
	Schema   *schema         `json:"schema"`
	Example  json.RawMessage `json:"example"`
	Examples map[string]struct {
		Summary string          `json:"summary"`
		Value   json.RawMessage `json:"value"`
	} `json:"examples"`
}

// schema is a JSON Schema, as far as openapi.json uses them.
type schema struct {
	Ref         string             `json:"$ref"`
	Type        string             `json:"type"`
	Format      string             `json:"format"`
	Description string             `json:"description"`
	Enum        []string           `json:"enum"`
	Const       string             `json:"const"`
	Properties  map[string]*schema `json:"properties"`
	Required    []string           `json:"required"`
	Items       *schema            `json:"items"`
	OneOf       []*schema          `json:"oneOf"`
	Minimum     *int64             `json:"minimum"`
	Maximum     *int64             `json:"maximum"`
	MaxLength   *int64             `json:"maxLength"`
}

// parseDescription reads an OpenAPI document and puts what it refers to in the
// place of the references, but for schemas, which the page shows once.
func parseDescription(data []byte) (*description, error) {
	d := new(description)
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("read OpenAPI document: %w", err)
	}
	for _, item := range d.Paths {
		for _, op := range []*operation{item.Get, item.Post, item.Patch, item.Delete, item.Options} {
			if op != nil {
				d.resolve(op)
			}
		}
	}
	return d, nil
}

func (d *description) resolve(op *operation) {
	for i, p := range op.Parameters {
		if p.Ref != "" {
			op.Parameters[i] = d.Components.Parameters[lastOf(p.Ref)]
		}
	}
	for status, r := range op.Responses {
		if r.Ref != "" {
			r = d.Components.Responses[lastOf(r.Ref)]
			op.Responses[status] = r
		}
		for name, h := range r.Headers {
			if h.Ref != "" {
				r.Headers[name] = d.Components.Headers[lastOf(h.Ref)]
			}
		}
	}
}

// lastOf is the name at the end of a reference.
func lastOf(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

// getDescription serves openapi.json.
func (s *Server) getDescription(w http.ResponseWriter, r *http.Request) error {
	writePublic(w, r, "application/json", openAPI)
	return nil
}

// writePublic answers with what is the same for everybody until the next release.
func writePublic(w http.ResponseWriter, r *http.Request, mediaType string, body []byte) {
	w.Header().Set("Cache-Control", "public, max-age=300")
	if notModified(w, r, bodyTag(body)) {
		return
	}
	w.Header().Set("Content-Type", mediaType)
	_, _ = w.Write(body)
}
