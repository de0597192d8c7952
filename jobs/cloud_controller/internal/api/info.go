package api

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
)

// getInfo describes this cloud and, if the request carries a token, the account.
func (s *Server) getInfo(w http.ResponseWriter, r *http.Request) error {
	settings := s.Config.Now()
	type runtime struct {
		Name        string `json:"name"`
		Version     string `json:"version"`
		Description string `json:"description"`
	}
	type framework struct {
		Name      string           `json:"name"`
		Runtimes  []runtime        `json:"runtimes"`
		Detection []map[string]any `json:"detection"`
	}
	frameworks := map[string]framework{}
	for name, f := range s.Catalog.Frameworks {
		entry := framework{Name: name, Runtimes: []runtime{}, Detection: f.Detection}
		if entry.Detection == nil {
			entry.Detection = []map[string]any{}
		}
		for _, choice := range f.Runtimes {
			for _, name := range slices.Sorted(maps.Keys(choice)) {
				if info, ok := s.Catalog.Runtimes[name]; ok {
					entry.Runtimes = append(entry.Runtimes, runtime{info.Name, info.Version, info.Description})
				}
			}
		}
		frameworks[name] = entry
	}
	doc := map[string]any{
		"name": settings.Name, "build": settings.Build, "support": settings.Support, "version": settings.Version,
		"description": settings.Description, "allow_debug": settings.AllowDebug, "frameworks": frameworks,
	}
	if level := s.Placer.Isolation(); level != "" {
		doc["isolation"] = level
	}
	if at := s.Accounts.Login(); at != "" {
		doc["authorization_endpoint"] = at
	}
	a, known, err := s.Accounts.Optional(r)
	if err != nil {
		return err
	}
	if known {
		usage, err := s.Store.Usage(r.Context(), a.ID)
		if err != nil {
			return err
		}
		doc["user"] = a.Email
		doc["limits"] = a.Capacity
		doc["usage"] = map[string]int{"memory": usage.Memory, "apps": usage.Apps, "services": usage.Services}
	}
	rest.WriteJSON(w, http.StatusOK, doc)
	return nil
}

// listDomains says which names the account may map to its apps.
func (s *Server) listDomains(w http.ResponseWriter, _ *http.Request, a model.Account) error {
	type domain struct {
		Name string `json:"name"`
		// Restricted: not every account may.
		Restricted bool `json:"restricted"`
	}
	settings := s.Config.Now()
	own := "*." + settings.Domain()
	list := []domain{}
	if !slices.ContainsFunc(settings.Domains, func(d config.Domain) bool { return d.Name == own }) {
		list = append(list, domain{Name: own})
	}
	for _, d := range settings.Domains {
		if d.For(strings.ToLower(a.Email), a.Admin) {
			list = append(list, domain{Name: d.Name, Restricted: len(d.Users) > 0})
		}
	}
	rest.WriteJSON(w, http.StatusOK, list)
	return nil
}

func (s *Server) getRuntimes(w http.ResponseWriter, _ *http.Request) error {
	type runtime struct {
		Version     string   `json:"version"`
		Description string   `json:"description"`
		DebugModes  []string `json:"debug_modes"`
	}
	doc := map[string]runtime{}
	for name, info := range s.Catalog.Runtimes {
		doc[name] = runtime{info.Version, info.Description, info.DebugModes}
	}
	rest.WriteJSON(w, http.StatusOK, doc)
	return nil
}
