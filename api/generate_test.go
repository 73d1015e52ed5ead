package api_test

import (
	"maps"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"testing"
)

// generate makes a value that fits the schema; a test holds it against the checker.
func (k *walk) generate(s *apiSchema) any {
	if s.Ref != "" {
		s = k.d.Components.Schemas[s.Ref[len("#/components/schemas/"):]]
	}
	switch {
	case s.OneOf != nil:
		return k.generate(s.OneOf[k.rng.IntN(len(s.OneOf))])
	case s.Const != "":
		return s.Const
	case s.Enum != nil:
		return k.pick(s.Enum...)
	}
	switch s.Type {
	case "integer":
		return k.generateInteger(s)
	case "boolean":
		return k.rng.IntN(2) == 0
	case "array":
		list := []any{}
		for range k.rng.IntN(3) {
			list = append(list, k.generate(s.Items))
		}
		return list
	case "object":
		object := map[string]any{}
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) { // in an order that the seed decides
			object[name] = k.generate(s.Properties[name])
		}
		return object
	}
	return k.generateString(s)
}

func (k *walk) generateInteger(s *apiSchema) any {
	least, most := 0.0, float64(math.MaxInt32)
	if s.Minimum != nil {
		least = *s.Minimum
	}
	if s.Maximum != nil {
		most = *s.Maximum
	}
	n := []float64{least, most, math.Min(least+1, most), math.Floor(least + k.rng.Float64()*(most-least))}[k.rng.IntN(4)]
	return int64(n)
}

func (k *walk) generateString(s *apiSchema) any {
	if s.Format == "date-time" { // the pattern allows the 31st of February
		return "2026-11-21T09:30:00Z"
	}
	if s.Pattern == "" {
		return k.pick("x", "deed", "10")
	}
	expression, err := syntax.Parse(s.Pattern, syntax.Perl)
	if err != nil {
		k.t.Fatal(err)
	}
	text := k.matching(expression.Simplify())
	if s.MaxLength != nil {
		text = text[:min(len(text), *s.MaxLength)]
	}
	return text
}

// matching is a text that a regular expression matches.
func (k *walk) matching(e *syntax.Regexp) (text string) {
	most := 0
	switch e.Op {
	case syntax.OpLiteral:
		return string(e.Rune)
	case syntax.OpCharClass:
		pair := 2 * k.rng.IntN(len(e.Rune)/2)
		return string(e.Rune[pair] + k.rng.Int32N(e.Rune[pair+1]-e.Rune[pair]+1))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return k.pick("0", ":", "Z", "é")
	case syntax.OpAlternate:
		return k.matching(e.Sub[k.rng.IntN(len(e.Sub))])
	case syntax.OpCapture, syntax.OpConcat:
		most = 1
	case syntax.OpQuest:
		most = k.rng.IntN(2)
	case syntax.OpStar:
		most = k.rng.IntN(4)
	case syntax.OpPlus:
		most = 1 + k.rng.IntN(4)
	}
	for range most {
		for _, sub := range e.Sub {
			text += k.matching(sub)
		}
	}
	return text
}

// What is generated as valid is valid.
func TestGenerator(t *testing.T) {
	k := newWalk(t)
	for name, s := range k.d.Components.Schemas {
		for range 20 {
			if err := k.checkJSON(s, k.json(s, false)); err != nil {
				t.Errorf("a generated %s: %v", name, err)
			}
		}
	}
	for _, pattern := range []string{"^[a-c]{2,3}(x|yz)?$", "^a+b*$", "^.{4}$"} {
		if text := k.generateString(&apiSchema{Type: "string", Pattern: pattern}).(string); !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("%q for %s", text, pattern)
		}
	}
}
