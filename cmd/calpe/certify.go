package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/calpe/calpe/receipt/statement"
)

type certifyCommand struct {
	Agency     string `help:"Identifier of the agency, as the service's operator registered it." required:"" placeholder:"ID"`
	Key        string `help:"File with the agency's private key, see \"calpe keygen\"." required:"" placeholder:"FILE"`
	Type       string `help:"What the agency calls such a document, such as \"birth certificate\"." required:"" placeholder:"TEXT"`
	Subject    string `help:"The agency's reference of whom or what it is about. Prefer a file number to a name: it is in every receipt." required:"" placeholder:"TEXT"`
	Issued     string `help:"Day of issue." required:"" placeholder:"YYYY-MM-DD"`
	ValidUntil string `help:"Last day of validity, if it ends." placeholder:"YYYY-MM-DD"`
	Output     string `short:"o" help:"Where to write it. Default: FILE.certification.json." placeholder:"FILE"`
	File       string `arg:"" help:"The document; - is the standard input."`
}

func (certifyCommand) Help() string {
	return `Signs that the agency certified exactly this document, byte for byte, by its SHA-256. Nothing is sent: give the result to whoever uploads the document (calpe upload --certification).`
}

func (c *certifyCommand) Run(ctx context.Context, a *app) error {
	out := c.Output
	if out == "" {
		if c.File == "-" {
			return errors.New("the document comes from the standard input: say with -o where the certification goes")
		}
		out = c.File + ".certification.json"
	}
	body, err := c.body()
	if err != nil {
		return err
	}
	key, err := readKey(c.Key)
	if err != nil {
		return err
	}
	if key.Name() != c.Agency {
		return fmt.Errorf("%s is a key of %q, not of %q", shown(c.Key), key.Name(), c.Agency)
	}
	if body.Digest, err = a.hashInput(ctx, c.File); err != nil {
		return err
	}
	signed, err := statement.Sign(key, body)
	if err != nil {
		return err
	}
	if err := createOnce(out, append(signed.Bytes(), '\n')); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "%s: certified by %s, digest %s; certification: %s\n", shown(c.File), key.ID(), body.Digest, shown(out))
	return err
}

func (c *certifyCommand) body() (statement.Certification, error) {
	body := statement.Certification{Agency: c.Agency, DocumentType: c.Type, Subject: c.Subject}
	var err error
	if body.Issued, err = statement.ParseDate(c.Issued); err != nil {
		return body, fmt.Errorf("--issued: %w", err)
	}
	if c.ValidUntil != "" {
		if body.ValidUntil, err = statement.ParseDate(c.ValidUntil); err != nil {
			return body, fmt.Errorf("--valid-until: %w", err)
		}
	}
	return body, body.Validate()
}

// createOnce writes a new file. One with the same bytes is as good; any other
// stays as it is.
func createOnce(path string, data []byte) error {
	err := createFile(path, data)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if found, readErr := readFile(path, int64(len(data))); readErr == nil && bytes.Equal(found, data) {
		return nil
	}
	return fmt.Errorf("%s is there already, with other contents: move it away or give another -o", shown(path))
}

// maxKeyFile is far more than any key has.
const maxKeyFile = 4096

// readKey reads a private key, which nobody but its owner may be able to read.
func readKey(path string) (statement.Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return statement.Key{}, err
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return statement.Key{}, fmt.Errorf("%s can be read by others (mode %04o): whoever has it signs as the agency. If nobody has: chmod 600", shown(path), mode)
	}
	data, err := readFile(path, maxKeyFile)
	if err != nil {
		return statement.Key{}, err
	}
	key, err := statement.ParseKey(string(data))
	if err != nil {
		return statement.Key{}, fmt.Errorf("%s is not a private key: %w", shown(path), err)
	}
	return key, nil
}

type keygenCommand struct {
	Output string `short:"o" help:"Where to write the private key. Default: AGENCY-ID.key." placeholder:"FILE"`
	Agency string `arg:"" name:"agency-id" help:"Identifier of the agency: 1 to 64 characters out of a-z0-9-."`
}

func (keygenCommand) Help() string {
	return `Writes a new private key to a file that only its owner can read, never over another one, and prints the public key for the service's operator ("calped agency add"). Keep a copy of the file off this machine: whoever has it signs as the agency, and without it the agency needs a new registration.`
}

func (c *keygenCommand) Run(a *app) error {
	if err := statement.CheckAgencyID(c.Agency); err != nil {
		return err
	}
	key, err := statement.GenerateKey(rand.Reader, c.Agency)
	if err != nil {
		return err
	}
	out := c.Output
	if out == "" {
		out = c.Agency + ".key"
	}
	err = createFile(out, []byte(key.Secret()+"\n"))
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists, and a key is never overwritten: move it away or give another -o", shown(out))
	}
	if err != nil {
		return err
	}
	a.notice("The private key is in %s. Give this public key to the service's operator:", shown(out))
	_, err = fmt.Fprintln(a.Stdout, key.Verifier())
	return err
}
