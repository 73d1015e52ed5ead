package calpe_test

import (
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe"
)

func TestDocumentIDText(t *testing.T) {
	t.Parallel()
	id := calpe.DocumentID{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0x4d, 0xef, 0x80, 0, 0, 0, 0, 0, 0, 0xff}
	const text = "01234567-89ab-4def-8000-0000000000ff"
	if got := id.String(); got != text {
		t.Errorf("id is %s, want %s", got, text)
	}
	if got, err := calpe.ParseDocumentID(text); err != nil || got != id {
		t.Errorf("parsed %s, %v", got, err)
	}
	for _, bad := range []string{
		"", strings.ToUpper(text), text + "0", text[1:], strings.ReplaceAll(text, "-", ""), "{" + text[1:35] + "}",
		"0123456789-ab-4def-8000-0000000000ff"[:36], "01234567-89ab-4def-8000-00000000-0ff", "01234567_89ab-4def-8000-0000000000ff",
	} {
		if got, err := calpe.ParseDocumentID(bad); err == nil {
			t.Errorf("%q is accepted as %s", bad, got)
		}
	}
}

func FuzzParseDocumentID(f *testing.F) {
	f.Add("01234567-89ab-4def-8000-0000000000ff")
	f.Add("01234567-89ab-4def-8000-00000000-0ff")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := calpe.ParseDocumentID(text); err == nil && id.String() != text {
			t.Errorf("%q comes back as %q", text, id)
		}
	})
}

func TestInstanceText(t *testing.T) {
	t.Parallel()
	i := calpe.Instance{SystemIdentifier: "7710585077016830781", Timeline: 3, Started: time.Date(2026, 11, 21, 12, 28, 7, 18416000, time.FixedZone("", 3600))}
	const text = "7710585077016830781/3/2026-11-21T11:28:07.018416Z"
	if got := i.String(); got != text {
		t.Errorf("instance is %s, want %s", got, text)
	}
	got, err := calpe.ParseInstance(text)
	if err != nil || !got.Equal(i) {
		t.Errorf("parsed %s, %v", got, err)
	}
	if i.IsZero() || !(calpe.Instance{}).IsZero() {
		t.Error("IsZero is wrong")
	}
	for name, o := range map[string]calpe.Instance{
		"system":   {SystemIdentifier: "1", Timeline: i.Timeline, Started: i.Started},
		"timeline": {SystemIdentifier: i.SystemIdentifier, Timeline: 4, Started: i.Started},
		"start":    {SystemIdentifier: i.SystemIdentifier, Timeline: i.Timeline, Started: i.Started.Add(time.Microsecond)},
	} {
		if o.Equal(i) {
			t.Errorf("equal in spite of another %s", name)
		}
	}
	for _, bad := range []string{
		"", "1/2", text + "/", "x/3/2026-11-21T11:28:07.018416Z", "7/-3/2026-11-21T11:28:07.018416Z", "07/3/2026-11-21T11:28:07.018416Z/1",
		"7/03/2026-11-21T11:28:07.018416Z", "7/4294967296/2026-11-21T11:28:07.018416Z", "7/3/2026-11-21T11:28:07Z", "7/3/2026-11-21T11:28:07.018416+01:00",
	} {
		if got, err := calpe.ParseInstance(bad); err == nil {
			t.Errorf("%q is accepted as %s", bad, got)
		}
	}
}

func FuzzParseInstance(f *testing.F) {
	f.Add("7710585077016830781/3/2026-11-21T11:28:07.018416Z")
	f.Add("0/0/0001-01-01T00:00:00.000000Z")
	f.Fuzz(func(t *testing.T, text string) {
		if i, err := calpe.ParseInstance(text); err == nil && i.String() != text {
			t.Errorf("%q comes back as %q", text, i)
		}
	})
}

func TestSubmissionCheck(t *testing.T) {
	t.Parallel()
	good := func() calpe.Submission {
		return calpe.Submission{
			Commitments: []calpe.Commitment{{1}, {2}},
			Idempotency: &calpe.Idempotency{Owner: "ana", RequestTag: make([]byte, 32)},
			Document: &calpe.Document{
				ID: calpe.DocumentID{1}, Owner: "ana", Certification: 1, Sealed: []byte{1}, DigestTag: make([]byte, 32),
				Object:      calpe.Object{Name: "documents/a", PlainSize: 1, Size: 1, PartSize: 1, Checksum: "c"},
				RetainUntil: time.Unix(1, 0), Created: time.Unix(1, 0),
			},
			Key:           &calpe.WrappedKey{KeyID: "k", Wrapped: make([]byte, 48)},
			Certification: &calpe.Certification{Index: 1, Agency: "a", Sealed: []byte{1}},
			Statement:     &calpe.Statement{Type: "calpe/agency/v1", Body: []byte("{}")},
			Agency:        &calpe.Agency{ID: "a"},
		}
	}
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*calpe.Submission){
		"no commitment":                func(s *calpe.Submission) { s.Commitments = nil },
		"too many":                     func(s *calpe.Submission) { s.Commitments = make([]calpe.Commitment, calpe.MaxGroup+1) },
		"void":                         func(s *calpe.Submission) { s.Commitments[1] = calpe.VoidCommitment },
		"document without key":         func(s *calpe.Submission) { s.Key = nil },
		"key without document":         func(s *calpe.Submission) { s.Document, s.Certification = nil, nil },
		"certification alone":          func(s *calpe.Submission) { s.Document, s.Key = nil, nil },
		"agency alone":                 func(s *calpe.Submission) { s.Statement = nil },
		"document without id":          func(s *calpe.Submission) { s.Document.ID = calpe.DocumentID{} },
		"document without owner":       func(s *calpe.Submission) { s.Document.Owner = "" },
		"document outside":             func(s *calpe.Submission) { s.Document.Index = 2 },
		"certification outside":        func(s *calpe.Submission) { s.Document.Certification, s.Certification.Index = 2, 2 },
		"certification before":         func(s *calpe.Submission) { s.Document.Index = 1 },
		"certification elsewhere":      func(s *calpe.Submission) { s.Certification.Index = 0 },
		"nothing sealed":               func(s *calpe.Submission) { s.Document.Sealed = nil },
		"too much sealed":              func(s *calpe.Submission) { s.Document.Sealed = make([]byte, 1<<16+1) },
		"short digest tag":             func(s *calpe.Submission) { s.Document.DigestTag = make([]byte, 15) },
		"no retention":                 func(s *calpe.Submission) { s.Document.RetainUntil = time.Time{} },
		"object without name":          func(s *calpe.Submission) { s.Document.Object.Name = "" },
		"object without bytes":         func(s *calpe.Submission) { s.Document.Object.Size = 0 },
		"object without checksum":      func(s *calpe.Submission) { s.Document.Object.Checksum = "" },
		"key without id":               func(s *calpe.Submission) { s.Key.KeyID = "" },
		"short key":                    func(s *calpe.Submission) { s.Key.Wrapped = make([]byte, 15) },
		"certification without bytes":  func(s *calpe.Submission) { s.Certification.Sealed = nil },
		"statement outside":            func(s *calpe.Submission) { s.Statement.Index = 2 },
		"statement too long":           func(s *calpe.Submission) { s.Statement.Body = make([]byte, 16385) },
		"statement without type":       func(s *calpe.Submission) { s.Statement.Type = "" },
		"idempotency without owner":    func(s *calpe.Submission) { s.Idempotency.Owner = "" },
		"owner that isn't text":        func(s *calpe.Submission) { s.Document.Owner = "\xff" },
		"version with a zero byte":     func(s *calpe.Submission) { s.Document.Object.VersionID = "a\x00" },
		"certification by nobody":      func(s *calpe.Submission) { s.Certification.Agency = "" },
		"idempotency with a short tag": func(s *calpe.Submission) { s.Idempotency.RequestTag = nil },
	} {
		s := good()
		spoil(&s)
		if err := s.Check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
