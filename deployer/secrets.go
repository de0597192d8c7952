package deployer

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/manifests"
)

// SecretInfo describes a secret of the manifest without its value.
type SecretInfo struct {
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	Attributes []string `json:"attributes"`
	// Made is false until the first apply, or until it is set.
	Made bool `json:"made"`
	// NotAfter is the end of a certificate's validity.
	NotAfter *time.Time `json:"not_after,omitempty"`
}

// Secrets lists the manifest's secrets, without their values.
func (d *Deployer) Secrets() ([]SecretInfo, error) {
	session, err := d.open()
	if err != nil {
		return nil, err
	}
	out := []SecretInfo{}
	for _, name := range slices.Sorted(maps.Keys(session.Manifest.Secrets)) {
		s := session.Manifest.Secrets[name]
		info := SecretInfo{Name: name, Type: string(s.Type), Attributes: s.Type.Attributes()}
		_, info.Made = session.Secrets.Values[name]
		if c, err := pki.ParseCertificate([]byte(session.Secrets.Values[name]["certificate"])); err == nil {
			info.NotAfter = &c.NotAfter
		}
		out = append(out, info)
	}
	return out, nil
}

// Secret returns the value of one attribute, named "NAME.ATTRIBUTE", or "NAME" if
// its type has just one.
func (d *Deployer) Secret(name string) (string, error) {
	session, err := d.open()
	if err != nil {
		return "", err
	}
	s, attribute, err := findSecret(session.Manifest, name)
	if err != nil {
		return "", err
	}
	if attribute == "" {
		return "", fmt.Errorf("cannot show the whole secret %q: name one of its attributes: %s", s.Name, qualified(s))
	}
	if session.Secrets.Values[s.Name] == nil {
		return "", fmt.Errorf("cannot show the secret %q: it does not exist yet; the next apply makes it", s.Name)
	}
	return session.Secrets.Values[s.Name][attribute], nil
}

// SetSecret gives a secret a value of the user's: that of one attribute, or of
// all as a JSON object if the type has several and name names none. It returns
// the secrets that changed: a CA's certificates are signed anew. The next apply
// rolls them out.
func (d *Deployer) SetSecret(ctx context.Context, name, value string) ([]string, error) {
	return changeSecret(ctx, d, "set secret", name, func(session *session.Session, s *manifests.Secret, attribute string) (map[string]string, error) {
		if err := checkText(value); err != nil {
			return nil, err
		}
		next := map[string]string{}
		if attribute == "" {
			if err := json.Unmarshal([]byte(value), &next); err != nil {
				return nil, fmt.Errorf("want a JSON object with %s (%w), or name one of %s", strings.Join(s.Type.Attributes(), ", "), err, qualified(s))
			}
		} else {
			maps.Copy(next, session.Secrets.Values[s.Name])
			next[attribute] = value
		}
		if err := pki.CheckSecret(s, next); err != nil {
			return nil, err
		}
		return next, nil
	})
}

// checkText refuses a value that the state, which is JSON, would change.
func checkText(value string) error {
	for i, r := range value {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(value[i:]); size == 1 {
				return fmt.Errorf("its byte %d is not UTF-8 text; set it encoded, for example in base64, and let the job decode it", i+1)
			}
		}
	}
	return nil
}

// RotateSecret makes a new value for a secret, all its attributes. It returns
// the secrets that changed, as SetSecret does.
func (d *Deployer) RotateSecret(ctx context.Context, name string) ([]string, error) {
	return changeSecret(ctx, d, "rotate secret", name, func(session *session.Session, s *manifests.Secret, attribute string) (map[string]string, error) {
		if len(s.Type.Attributes()) > 1 && attribute != "" {
			return nil, fmt.Errorf("its attributes belong together: name the secret only, %q", s.Name)
		}
		return pki.NewSecret(rand.Reader, s, session.Secrets.Values[s.CA], session.Now)
	})
}

// changeSecret replaces the value of a secret in the state, under the lock.
func changeSecret(ctx context.Context, d *Deployer, what, name string, next func(*session.Session, *manifests.Secret, string) (map[string]string, error)) ([]string, error) {
	changed := []string{}
	err := d.changeState(ctx, func(session *session.Session) error {
		s, attribute, err := findSecret(session.Manifest, name)
		if err != nil {
			return err
		}
		if err := credentials.Of(session).Ensure(); err != nil {
			return err
		}
		values := session.Secrets.Values
		value, err := next(session, s, attribute)
		if err != nil {
			return fmt.Errorf("cannot %s %q: %w", what, s.Name, err)
		}
		if maps.Equal(value, values[s.Name]) {
			return nil
		}
		values[s.Name] = value
		changed = []string{s.Name}
		for _, signed := range slices.Sorted(maps.Keys(session.Manifest.Secrets)) {
			c := session.Manifest.Secrets[signed]
			if s.Type != manifests.SecretCA || c.CA != s.Name {
				continue
			}
			if values[signed], err = pki.NewSecret(rand.Reader, c, value, session.Now); err != nil {
				return fmt.Errorf("cannot sign %q again: %w", signed, err)
			}
			changed = append(changed, signed)
		}
		return session.Begin(what+" "+strings.Join(changed, ", "), 0)
	})
	if err != nil {
		return nil, err
	}
	return changed, nil
}

// findSecret finds a secret of the manifest by "NAME" or "NAME.ATTRIBUTE". The
// attribute is "" if it is not named and there are several.
func findSecret(m *manifests.Manifest, name string) (*manifests.Secret, string, error) {
	name, attribute, named := strings.Cut(name, ".")
	s := m.Secrets[name]
	if s == nil {
		names := slices.Sorted(maps.Keys(m.Secrets))
		if len(names) == 0 {
			return nil, "", errors.New("the manifest has no secrets")
		}
		return nil, "", fmt.Errorf("the manifest has no secret %q, only %s", name, strings.Join(names, ", "))
	}
	attributes := s.Type.Attributes()
	switch {
	case named && !slices.Contains(attributes, attribute):
		return nil, "", fmt.Errorf("the secret %q has no attribute %q: name one of %s", name, attribute, qualified(s))
	case !named && len(attributes) == 1:
		attribute = attributes[0]
	}
	return s, attribute, nil
}

// qualified returns the attributes of a secret as they are named on the command line.
func qualified(s *manifests.Secret) string {
	var out []string
	for _, a := range s.Type.Attributes() {
		out = append(out, s.Name+"."+a)
	}
	return strings.Join(out, ", ")
}
