// Package s3 runs versitygw, an S3 server over a folder, with versioning and
// Object Lock, on the loopback interface.
package s3

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"
)

// Region is the only region that the server answers for.
const Region = "us-east-1"

const readyTimeout = 30 * time.Second

// Config says what server to run.
type Config struct {
	Dir               string // everything the server keeps; made if missing
	Port              int    // 0 is a free one
	Binary            string // the versitygw program
	AccessKey, Secret string // empty: those used in Dir before, or new random ones
}

// Info is what a user of the server needs to know.
type Info struct {
	Component string `json:"component"` // "s3"
	PID       int    `json:"pid"`
	URL       string `json:"url"` // http://127.0.0.1:PORT; path-style addressing
	Region    string `json:"region"`
	AccessKey string `json:"access_key"`
	SecretKey string `json:"secret_key"`
	Sidecar   bool   `json:"sidecar"` // metadata in files beside the objects: the file system has no user xattrs
	Dir       string `json:"dir"`
	LogFile   string `json:"log"`
}

// Server is a running server.
type Server struct {
	Info Info
	lock *process.Lock
	proc *process.Process
}

// Start starts a server and returns when it answers signed requests. ctx bounds
// the start only. A folder that another server runs on gives process.ErrLocked.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	lock, err := process.LockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock}
	if err := s.start(ctx, cfg); err != nil {
		lock.Unlock()
		return nil, fmt.Errorf("s3: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, cfg Config) error {
	keys, err := loadKeys(filepath.Join(cfg.Dir, "credentials.json"), cfg)
	if err != nil {
		return err
	}
	for _, name := range []string{"data", "versions", "iam", "sidecar"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, name), 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	sidecar, err := needsSidecar(cfg.Dir)
	if err != nil {
		return err
	}
	s.Info = Info{
		Component: "s3", Region: Region, AccessKey: keys.Access, SecretKey: keys.Secret,
		Sidecar: sidecar, Dir: cfg.Dir, LogFile: filepath.Join(cfg.Dir, "versitygw.log"),
	}
	return process.WithPort(cfg.Port, func(port int) error { return s.listen(ctx, cfg, port) })
}

// listen runs the server on one port until it answers a request signed with
// its own key; no other server knows that one.
func (s *Server) listen(ctx context.Context, cfg Config, port int) error {
	host := "127.0.0.1:" + strconv.Itoa(port)
	args := []string{"--port", host, "--region", Region, "--health", "/health", "--quiet", "--keep-alive",
		"--iam-dir", filepath.Join(cfg.Dir, "iam"), "posix", "--versioning-dir", filepath.Join(cfg.Dir, "versions")}
	if s.Info.Sidecar {
		args = append(args, "--sidecar", filepath.Join(cfg.Dir, "sidecar"))
	}
	proc, err := process.Start(context.WithoutCancel(ctx), process.Config{
		Name: "versitygw",
		Path: cfg.Binary,
		Args: append(args, filepath.Join(cfg.Dir, "data")),
		Dir:  cfg.Dir,
		// Not as arguments: any user of the machine can read those.
		Env: process.Environment(cfg.Dir, "ROOT_ACCESS_KEY="+s.Info.AccessKey, "ROOT_SECRET_KEY="+s.Info.SecretKey),
		Log: s.Info.LogFile,
	})
	if err != nil {
		return err
	}
	s.Info.URL = "http://" + host
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := proc.WaitReady(ctx, s.Info.ping); err != nil {
		proc.Stop()
		return err
	}
	s.proc, s.Info.PID = proc, proc.PID()
	return nil
}

func (i Info) ping(ctx context.Context) error {
	u, err := url.Parse(i.URL)
	if err != nil {
		return err
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds:      credentials.NewStaticV4(i.AccessKey, i.SecretKey, ""),
		Region:     i.Region,
		Transport:  &http.Transport{DisableKeepAlives: true},
		MaxRetries: 1,
	})
	if err != nil {
		return err
	}
	_, err = client.ListBuckets(ctx)
	return err
}

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.proc.Done() }

// Failure says how a server ended that nobody stopped.
func (s *Server) Failure() error { return s.proc.Failure() }

// Stop ends the server and returns when it is gone.
func (s *Server) Stop() {
	s.proc.Stop()
	s.lock.Unlock()
}

type keys struct {
	Access string `json:"access_key"`
	Secret string `json:"secret_key"`
}

// loadKeys returns the keys of cfg, or those kept in path, or new ones, and
// keeps them in path: a server that is started again has the same ones.
func loadKeys(path string, cfg Config) (keys, error) {
	var k keys
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return k, fmt.Errorf("read keys: %w", err)
	default:
		if err := json.Unmarshal(text, &k); err != nil {
			return k, fmt.Errorf("parse %s: %w", path, err)
		}
	}
	k.Access = cmp.Or(cfg.AccessKey, k.Access, rand.Text())
	k.Secret = cmp.Or(cfg.Secret, k.Secret, rand.Text())
	if text, err = json.Marshal(k); err != nil {
		return k, err
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return k, fmt.Errorf("write keys: %w", err)
	}
	return k, nil
}

// needsSidecar decides, once for the life of a folder, where versitygw keeps
// an object's metadata: in extended attributes, or where the file system has
// none (some tmpfs, NFS and overlays) in files of their own.
func needsSidecar(dir string) (bool, error) {
	choice := filepath.Join(dir, "metadata")
	text, err := os.ReadFile(choice)
	if err == nil {
		return string(text) == "sidecar", nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("read choice of metadata: %w", err)
	}
	kind := "xattr"
	if err := unix.Setxattr(filepath.Join(dir, "data"), "user.calpe-devstack", []byte("1"), 0); err != nil {
		kind = "sidecar"
	}
	if err := os.WriteFile(choice, []byte(kind), 0o600); err != nil {
		return false, fmt.Errorf("keep choice of metadata: %w", err)
	}
	return kind == "sidecar", nil
}
