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

	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// SecretInfo is what may be told of a secret of the manifest.
type SecretInfo struct {
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	Attributes []string `json:"attributes"`
	// Made is false until the first apply, or until it is set.
	Made bool `json:"made"`
	// NotAfter is when a certificate ends.
	NotAfter *time.Time `json:"not_after,omitempty"`
}

// Secrets lists the manifest's secrets, without their values.
func (d *Deployer) Secrets() ([]SecretInfo, error) {
	r, err := d.open()
	if err != nil {
		return nil, err
	}
	out := []SecretInfo{}
	for _, name := range slices.Sorted(maps.Keys(r.manifest.Secrets)) {
		s := r.manifest.Secrets[name]
		info := SecretInfo{Name: name, Type: string(s.Type), Attributes: s.Type.Attributes()}
		if r.secrets != nil {
			_, info.Made = r.secrets.Values[name]
			if c, err := pki.ParseCertificate([]byte(r.secrets.Values[name]["certificate"])); err == nil {
				info.NotAfter = &c.NotAfter
			}
		}
		out = append(out, info)
	}
	return out, nil
}

// Secret is the value of one attribute, named "NAME.ATTRIBUTE", or "NAME" if
// its type has just one.
func (d *Deployer) Secret(name string) (string, error) {
	r, err := d.open()
	if err != nil {
		return "", err
	}
	s, attribute, err := r.secret(name)
	if err != nil {
		return "", err
	}
	if attribute == "" {
		return "", fmt.Errorf("cannot show all of the secret %q at once: name one of %s", s.Name, qualified(s))
	}
	if r.secrets == nil || r.secrets.Values[s.Name] == nil {
		return "", fmt.Errorf("cannot show the secret %q: it does not exist yet; the next apply makes it", s.Name)
	}
	return r.secrets.Values[s.Name][attribute], nil
}

// SetSecret gives a secret a value of the user's: that of one attribute, or of
// all as a JSON object if the type has several and name names none. It returns
// the secrets that changed: a CA's certificates are signed anew. The next apply
// rolls them out.
func (d *Deployer) SetSecret(ctx context.Context, name, value string) ([]string, error) {
	return d.changeSecret(ctx, "set secret", name, func(r *run, s *manifests.Secret, attribute string) (map[string]string, error) {
		next := map[string]string{}
		if attribute == "" {
			if err := json.Unmarshal([]byte(value), &next); err != nil {
				return nil, fmt.Errorf("want a JSON object with %s (%w), or name one of %s", strings.Join(s.Type.Attributes(), ", "), err, qualified(s))
			}
		} else {
			maps.Copy(next, r.secrets.Values[s.Name])
			next[attribute] = value
		}
		if err := pki.CheckSecret(s, next); err != nil {
			return nil, err
		}
		return next, nil
	})
}

// RotateSecret makes a new value for a secret, all its attributes. It returns
// the secrets that changed, as SetSecret does.
func (d *Deployer) RotateSecret(ctx context.Context, name string) ([]string, error) {
	return d.changeSecret(ctx, "rotate secret", name, func(r *run, s *manifests.Secret, attribute string) (map[string]string, error) {
		if len(s.Type.Attributes()) > 1 && attribute != "" {
			return nil, fmt.Errorf("its attributes belong together: name the secret only, %q", s.Name)
		}
		return pki.NewSecret(rand.Reader, s, r.secrets.Values[s.CA], r.now)
	})
}

// changeSecret replaces the value of a secret in the state, under the lock.
func (d *Deployer) changeSecret(ctx context.Context, what, name string, next func(*run, *manifests.Secret, string) (map[string]string, error)) ([]string, error) {
	r, err := d.open()
	if err != nil {
		return nil, err
	}
	s, attribute, err := r.secret(name)
	if err != nil {
		return nil, err
	}
	lock, _, err := d.hold(ctx, r.store)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	if r.state, r.secrets, err = r.store.Load(); err != nil { // what was read before the lock may be another's past
		return nil, err
	}
	if r.state == nil {
		r.fresh = true
		r.state = state.New(r.manifest.Deployment.Name)
	}
	if r.secrets == nil {
		r.secrets = &state.Secrets{}
	}
	if err := r.ensureSecrets(); err != nil {
		return nil, r.cleanUp(err)
	}
	value, err := next(r, s, attribute)
	if err != nil {
		return nil, r.cleanUp(fmt.Errorf("cannot %s %q: %w", what, s.Name, err))
	}
	if maps.Equal(value, r.secrets.Values[s.Name]) {
		return []string{}, r.cleanUp(nil)
	}
	r.secrets.Values[s.Name] = value
	changed := []string{s.Name}
	for _, signed := range slices.Sorted(maps.Keys(r.manifest.Secrets)) {
		c := r.manifest.Secrets[signed]
		if s.Type != manifests.SecretCA || c.CA != s.Name {
			continue
		}
		if r.secrets.Values[signed], err = pki.NewSecret(rand.Reader, c, value, r.now); err != nil {
			return nil, r.cleanUp(fmt.Errorf("cannot sign %q anew: %w", signed, err))
		}
		changed = append(changed, signed)
	}
	err = r.begin(what + " " + strings.Join(changed, ", "))
	r.ended(err)
	return changed, err
}

// secret finds a secret of the manifest by "NAME" or "NAME.ATTRIBUTE". The
// attribute is "" if it is not named and there are several.
func (r *run) secret(name string) (*manifests.Secret, string, error) {
	name, attribute, named := strings.Cut(name, ".")
	s := r.manifest.Secrets[name]
	if s == nil {
		names := slices.Sorted(maps.Keys(r.manifest.Secrets))
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

// qualified are the attributes of a secret as they are named on the command line.
func qualified(s *manifests.Secret) string {
	var out []string
	for _, a := range s.Type.Attributes() {
		out = append(out, s.Name+"."+a)
	}
	return strings.Join(out, ", ")
}
