// Package dev runs Calpe itself on the local stack: what an operator does to set
// up a service, and the server, as child processes.
package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
	"github.com/calpe/calpe/deploy/devstack/internal/faucet"
	"github.com/calpe/calpe/deploy/devstack/internal/s3"
)

// Config describes one service.
type Config struct {
	Name     string // begins the names of its buckets: a-z, 0-9, -
	Origin   string // its log's name
	Dir      string // its keys, its log output and its identity file; made if missing
	Calped   string // path of the program
	Database string // URL of a database of its own
	S3       s3.Info
	Bitcoin  bitcoin.Info
	Settings []string // further CALPE_… variables of calped
}

// Deployment is a service of its own, with a database, buckets, keys and a log.
// Its methods are an operator's steps, in the order in which they stand here.
type Deployment struct {
	cfg     Config
	program Program
}

// New makes the folder and changes nothing else.
func New(cfg Config) (*Deployment, error) {
	var err error
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	d := &Deployment{cfg: cfg}
	env, err := d.environment()
	d.program = Program{Path: cfg.Calped, Dir: cfg.Dir, Env: env}
	return d, err
}

// environment are the settings of calped. The folder is private, and so is a
// process's environment.
func (d *Deployment) environment() ([]string, error) {
	node, err := url.Parse(d.cfg.Bitcoin.URL)
	if err != nil {
		return nil, errors.New("the node's URL can't be parsed") // the parser's error would show the password
	}
	password, _ := node.User.Password()
	return append([]string{
		"CALPE_DATABASE_URL=" + d.cfg.Database,
		"CALPE_S3_ENDPOINT=" + d.cfg.S3.URL,
		"CALPE_S3_REGION=" + d.cfg.S3.Region,
		"CALPE_S3_ACCESS_KEY=" + d.cfg.S3.AccessKey,
		"CALPE_S3_SECRET_KEY=" + d.cfg.S3.SecretKey,
		"CALPE_S3_DOCUMENTS_BUCKET=" + d.cfg.Name + "-documents",
		"CALPE_S3_LOG_BUCKET=" + d.cfg.Name + "-log",
		"CALPE_BITCOIN_URL=" + node.Scheme + "://" + node.Host,
		"CALPE_BITCOIN_USER=" + node.User.Username(),
		"CALPE_BITCOIN_PASSWORD=" + password,
		"CALPE_NETWORK=" + d.cfg.Bitcoin.Network,
		"CALPE_KEYS=" + filepath.Join(d.cfg.Dir, "keys"),
		"CALPE_LOG_FORMAT=text",
	}, d.cfg.Settings...), nil
}

// Environment are the variables with which calped reaches this service's
// servers: secrets, for a file that only its owner can read.
func (d *Deployment) Environment() []string { return d.program.Env }

// LogFile is where calped's log goes.
func (d *Deployment) LogFile() string { return filepath.Join(d.cfg.Dir, "calped.log") }

// IdentityFile is where Identity writes.
func (d *Deployment) IdentityFile() string { return filepath.Join(d.cfg.Dir, "identity.json") }

// Migrate brings the schema up to date, and says what version it has.
func (d *Deployment) Migrate(ctx context.Context) (string, error) {
	out, err := d.program.Do(ctx, "migrate")
	version, _, _ := strings.Cut(strings.TrimSpace(out), ",")
	return version, err
}

// Init makes the keys that aren't there yet, and returns the wallet's address.
func (d *Deployment) Init(ctx context.Context) (address string, err error) {
	if _, err := d.program.Do(ctx, "init", "--origin", d.cfg.Origin); err != nil {
		return "", err
	}
	address, err = d.program.Do(ctx, "wallet", "address")
	return strings.TrimSpace(address), err
}

// Fund pays the wallet from the faucet, in a block.
func (d *Deployment) Fund(ctx context.Context, address string, sats int64) (faucet.Funding, error) {
	f, err := faucet.New(ctx, d.cfg.Bitcoin.URL)
	if err != nil {
		return faucet.Funding{}, err
	}
	return f.Fund(ctx, address, sats)
}

// Log is what a log's identity says, as far as people are shown it.
type Log struct {
	Origin string
	Hash   string // of the identity, hex
	Coin   string // txid:vout with which its chain of anchors starts
}

// CreateLog creates buckets and log, and writes the identity file. A log that is
// there already is kept.
func (d *Deployment) CreateLog(ctx context.Context) (Log, error) {
	out, err := d.program.Do(ctx, "log", "create", "--create-buckets")
	if err != nil {
		return Log{}, err
	}
	log := Log{Origin: field(out, "log"), Hash: field(out, "identity"), Coin: field(out, "coin")}
	if log.Hash == "" || log.Coin == "" {
		return Log{}, fmt.Errorf("calped log create: names no identity or coin: %s", out)
	}
	identity, err := d.program.Do(ctx, "log", "show")
	if err != nil {
		return Log{}, err
	}
	if !json.Valid([]byte(identity)) {
		return Log{}, fmt.Errorf("calped log show: not JSON: %s", identity)
	}
	if err := os.WriteFile(d.IdentityFile(), []byte(identity), 0o644); err != nil {
		return Log{}, fmt.Errorf("write identity: %w", err)
	}
	return log, nil
}

// field is the second word of the line whose first one is name.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == name {
			return words[1]
		}
	}
	return ""
}

// AddAgency registers an agency unless it is, and says what calped answers.
func (d *Deployment) AddAgency(ctx context.Context, id, name, key string) (string, error) {
	list, err := d.program.Do(ctx, "agency", "list")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(list) {
		if found, _, _ := strings.Cut(line, "\t"); found == id {
			return id + " is registered", nil
		}
	}
	out, err := d.program.Do(ctx, "agency", "add", "--id", id, "--name", name, "--key", key)
	return strings.TrimSpace(out), err
}

// CreateToken makes a token for an owner of documents.
func (d *Deployment) CreateToken(ctx context.Context, owner string) (string, error) {
	out, err := d.program.Do(ctx, "token", "create", "--owner", owner)
	return strings.TrimSpace(out), err
}
