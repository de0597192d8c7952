package services

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// offering is a service as its gateway posts it.
type offering struct {
	Label       string            `json:"label"`
	URL         string            `json:"url"`
	Plans       []string          `json:"plans"`
	Description string            `json:"description"`
	InfoURL     string            `json:"info_url"`
	Tags        []string          `json:"tags"`
	PlanOptions json.RawMessage   `json:"plan_options"`
	Binding     json.RawMessage   `json:"binding_options"`
	ACLs        *acls             `json:"acls"`
	Active      *bool             `json:"active"` // nil: true
	Timeout     int               `json:"timeout"`
	Provider    string            `json:"provider"`
	DefaultPlan string            `json:"default_plan"`
	Versions    []string          `json:"supported_versions"`
	Aliases     map[string]string `json:"version_aliases"`
	CFPlanID    json.RawMessage   `json:"cf_plan_id"`
}

// acls say who sees an offering; nil: everyone.
type acls struct {
	Users     []string        `json:"users"`
	Wildcards []string        `json:"wildcards"` // "*@example.com"
	Plans     map[string]acls `json:"plans"`
}

// coreProvider is the provider of an offering that names none.
const coreProvider = "core"

var (
	offeringLabel = regexp.MustCompile(`^[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*-[A-Za-z0-9_.]+$`)
	serviceAlias  = regexp.MustCompile(`^[\w.-]{1,255}$`)
)

func readOffering(o store.Offering) (offering, error) {
	var doc offering
	if err := json.Unmarshal(o.Document, &doc); err != nil {
		return offering{}, fmt.Errorf("cannot read the offering %s: %w", o.Label, err)
	}
	return doc, nil
}

// name and version of a label: "mysql-5.1".
func (o offering) name() string { return o.Label[:max(0, strings.LastIndex(o.Label, "-"))] }

func (o offering) version() string { return o.Label[strings.LastIndex(o.Label, "-")+1:] }

func (o offering) provider() string {
	if o.Provider == "" {
		return coreProvider
	}
	return o.Provider
}

// versions returns what can be asked for.
func (o offering) versions() []string {
	if len(o.Versions) == 0 {
		return []string{o.version()}
	}
	return o.Versions
}

// kind returns vmc's type of a service.
func (o offering) kind() string {
	switch o.name() {
	case "mysql", "postgresql":
		return "database"
	case "redis":
		return "key-value"
	case "mongodb":
		return "document"
	}
	return "generic"
}

// visible reports whether a user sees the offering; email "" is nobody's, without
// a login.
func (o offering) visible(email string) bool {
	if o.ACLs == nil || len(o.ACLs.Users) == 0 && len(o.ACLs.Wildcards) == 0 {
		return true
	}
	matches := func(pattern string) bool {
		ok, err := path.Match(pattern, email)
		return err == nil && ok
	}
	return email != "" && (slices.Contains(o.ACLs.Users, email) || slices.ContainsFunc(o.ACLs.Wildcards, matches))
}

// offered is an offering that is active, and that a user sees.
type offered struct {
	offering
	stored store.Offering
}

func (s *Services) offered(ctx context.Context, email string) ([]offered, error) {
	stored, err := s.Store.Offerings(ctx)
	if err != nil {
		return nil, err
	}
	var list []offered
	for _, o := range stored {
		doc, err := readOffering(o)
		if err != nil {
			return nil, err
		}
		if o.Active && doc.visible(email) {
			list = append(list, offered{doc, o})
		}
	}
	return list, nil
}
