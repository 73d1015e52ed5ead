package statement

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth is how deep a format may nest; the receipt, which is the deepest,
// needs 5. It bounds the stack of whoever walks the value.
const maxDepth = 16

// maxInteger is the largest integer of strict JSON, 2^53 - 1: above it a reader
// that keeps numbers as double precision no longer sees what was written.
const maxInteger = 1<<53 - 1

// Canonical checks that data is one value of strict JSON (docs/formats.md,
// "Conventions") and returns its canonical form, RFC 8785. data is unchanged.
// The caller limits the size of data.
func Canonical(data []byte) ([]byte, error) {
	if err := checkStrict(data); err != nil {
		return nil, err
	}
	v := jsontext.Value(bytes.Clone(data))
	if err := v.Canonicalize(); err != nil {
		return nil, fmt.Errorf("make JSON canonical: %w", err)
	}
	return v, nil
}

// Decode reads one value of strict JSON into v, a pointer to a struct with
// lower-case json tags. Beyond strict JSON it demands that v, written again, is
// the same value: so no member is missing that v would write, none is there that
// v would leave out, and every text is in its only spelling. Errors name the
// place as a JSON pointer (RFC 6901). The caller limits the size of data.
func Decode(data []byte, v any) error {
	read, err := Canonical(data)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(read, v, json.RejectUnknownMembers(true)); err != nil {
		return inWords(err)
	}
	written, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write again what was read: %w", err)
	}
	if written, err = Canonical(written); err != nil {
		return fmt.Errorf("write again what was read: %w", err)
	}
	if !bytes.Equal(read, written) {
		return fmt.Errorf("JSON: %s", difference(read, written))
	}
	return nil
}

// inWords says what is wrong with a member without naming the types of this
// program, which the reader of a receipt doesn't know.
func inWords(err error) error {
	e, ok := errors.AsType[*json.SemanticError](err)
	switch {
	case !ok:
		return err
	case e.Err == nil:
		return fmt.Errorf("JSON: at %q: %s is not what belongs there", e.JSONPointer, kindName(e.JSONKind))
	}
	return fmt.Errorf("JSON: at %q: %w", e.JSONPointer, e.Err)
}

func kindName(k jsontext.Kind) string {
	switch k {
	case jsontext.KindString:
		return "a string"
	case jsontext.KindNumber:
		return "a number"
	case jsontext.KindBeginObject:
		return "an object"
	case jsontext.KindBeginArray:
		return "an array"
	default:
		return "this value"
	}
}

// checkStrict walks data once. Duplicate members, wrong UTF-8 and a byte order
// mark are refused by the decoder itself.
func checkStrict(data []byte) error {
	dec := jsontext.NewDecoder(bytes.NewReader(data))
	for {
		tok, err := dec.ReadToken()
		if errors.Is(err, io.EOF) {
			return errors.New("JSON: there is no value")
		}
		if err != nil {
			return err
		}
		if err := checkToken(tok); err != nil {
			return fmt.Errorf("JSON: at %q: %w", dec.StackPointer(), err)
		}
		switch depth := dec.StackDepth(); {
		case depth > maxDepth:
			return fmt.Errorf("JSON: nested deeper than %d levels", maxDepth)
		case depth == 0:
			return checkEnd(dec)
		}
	}
}

func checkEnd(dec *jsontext.Decoder) error {
	_, err := dec.ReadToken()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("JSON: something follows the value, at byte %d", dec.InputOffset())
}

func checkToken(tok jsontext.Token) error {
	switch tok.Kind() {
	case jsontext.KindNull, jsontext.KindTrue, jsontext.KindFalse:
		return fmt.Errorf("%s is not a value of any member", tok)
	case jsontext.KindNumber:
		text := tok.String()
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n > maxInteger || strconv.FormatUint(n, 10) != text {
			return fmt.Errorf("number %.32s is not an integer from 0 to 2^53-1 without fraction and exponent", text)
		}
	default: // the decoder has checked strings, and that brackets match
	}
	return nil
}

// difference says where two canonical values differ first.
func difference(read, written []byte) string {
	var a, b any
	if json.Unmarshal(read, &a) != nil || json.Unmarshal(written, &b) != nil {
		return "not in its only spelling"
	}
	return compare("", a, b)
}

func compare(at jsontext.Pointer, read, written any) string {
	r, ok1 := read.(map[string]any)
	w, ok2 := written.(map[string]any)
	if !ok1 || !ok2 {
		return fmt.Sprintf("%q is not in its only spelling", at)
	}
	for _, name := range slices.Sorted(maps.Keys(w)) {
		if _, ok := r[name]; !ok {
			return fmt.Sprintf("%q is missing", at.AppendToken(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if _, ok := w[name]; !ok {
			return fmt.Sprintf("%q may not be empty: leave it out", at.AppendToken(name))
		}
		x, _ := json.Marshal(r[name], json.Deterministic(true))
		y, _ := json.Marshal(w[name], json.Deterministic(true))
		if !bytes.Equal(x, y) {
			return compare(at.AppendToken(name), r[name], w[name])
		}
	}
	return "not in its only spelling"
}
