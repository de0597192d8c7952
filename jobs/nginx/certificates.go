// Package nginx checks a configuration of nginx beyond what nginx -t can: before it
// is used, whether its certificates are those of its domains, whole and in time,
// and its addresses free; once it is, whether every domain is really served with
// its certificate.
package nginx

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/host/tlspair"
)

// Certificate is that of a server of the configuration, as certificates.json has
// it.
type Certificate struct {
	Name        string `json:"name"`        // host names, with blanks between them
	Certificate string `json:"certificate"` // PEM: its own, then those that lead to a root
	Key         string `json:"key"`         // PEM
}

// Read returns the certificates of a file.
func Read(file string) ([]Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificates: %w", err)
	}
	var list []Certificate
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("cannot read the certificates in %s: %w", file, err)
	}
	return list, nil
}

// Check says all that is wrong with a certificate at that time.
func (c Certificate) Check(now time.Time) error {
	var problems []error
	for _, err := range (tlspair.Pair{Certificate: c.Certificate, Key: c.Key}).Problems(strings.Fields(c.Name), nil, now) {
		problems = append(problems, fmt.Errorf("cannot serve %s over TLS: %w", c.Name, err))
	}
	return errors.Join(problems...)
}

// File is the name of the file that holds a certificate and its key. It follows
// from both, so that a configuration keeps naming what it was made with.
func (c Certificate) File() string {
	sum := sha256.Sum256([]byte(c.Certificate + "\n" + c.Key))
	return hex.EncodeToString(sum[:]) + ".pem"
}

// Store writes the certificates into a folder, for nobody else to read. Those of
// other configurations stay for as long as keep, which may return to them.
func Store(folder string, list []Certificate, now time.Time, keep time.Duration) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("cannot store the certificates: %w", err)
	}
	wanted := map[string]bool{}
	for _, c := range list {
		wanted[c.File()] = true
		path := filepath.Join(folder, c.File())
		text := []byte(c.Certificate + "\n" + c.Key)
		if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, text) {
			if err := os.Chtimes(path, now, now); err != nil {
				return fmt.Errorf("cannot store the certificate of %s: %w", c.Name, err)
			}
			continue
		}
		if err := renameio.WriteFile(path, text, 0o600); err != nil {
			return fmt.Errorf("cannot store the certificate of %s: %w", c.Name, err)
		}
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("cannot clear old certificates away: %w", err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || wanted[entry.Name()] || now.Sub(info.ModTime()) < keep {
			continue
		}
		if err := os.Remove(filepath.Join(folder, entry.Name())); err != nil {
			return fmt.Errorf("cannot clear an old certificate away: %w", err)
		}
	}
	return nil
}

// Prepare checks the certificates of a file and stores them in a folder.
func Prepare(file, folder string, now time.Time) error {
	list, err := Read(file)
	if err != nil {
		return err
	}
	var problems []error
	for _, c := range list {
		problems = append(problems, c.Check(now))
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	return Store(folder, list, now, keepFor)
}

// keepFor is longer than a generation is kept that a rollback may return to.
const keepFor = 90 * 24 * time.Hour

// Main is the program lb_check: "check" before a configuration is used, "proof"
// once it is, "health" for those who ask whether it serves (job keepalived). It returns the program's exit status.
func Main(args []string, problems io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	switch {
	case len(args) == 5 && args[0] == "check":
		p := Preflight{Program: args[1], Staged: os.Getenv("DEPLOY_STAGED"), Active: args[2], Run: args[3], Data: args[4]}
		err = p.Check(ctx, time.Now())
	case len(args) == 2 && args[0] == "proof":
		err = Prove(ctx, args[1])
	case len(args) == 2 && args[0] == "health":
		err = healthy(ctx, args[1])
	default:
		fmt.Fprintln(problems, "usage: lb_check check NGINX CONFIG RUN DATA, lb_check proof CONFIG, lb_check health URL")
		return 2
	}
	if err != nil {
		fmt.Fprintln(problems, err)
		return 1
	}
	return 0
}

// patience is by the clock, and less than job.hcl's limits, so that what was wrong
// last is said.
const patience = 15 * time.Second
