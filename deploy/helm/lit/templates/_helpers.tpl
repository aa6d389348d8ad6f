{{- define "lit.name" -}}
{{- if contains "lit" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-lit" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "lit.selector" -}}
app.kubernetes.io/name: lit
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "lit.labels" -}}
{{ include "lit.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "lit.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "lit.secretName" -}}
{{ .Values.secret.existingSecret | default (include "lit.name" .) }}
{{- end }}

{{- define "lit.databaseUrl" -}}
{{- if .Values.bundled.enabled -}}
postgresql://lit:{{ required "bundled.password: set it, for example to the output of `openssl rand -hex 24`" .Values.bundled.password }}@{{ include "lit.name" . }}-postgresql.{{ .Release.Namespace }}:5432/lit
{{- else -}}
{{ required "secret.databaseUrl: set it to the address of a PostgreSQL database, or name a Secret in secret.existingSecret, or try LIT out with bundled.enabled" .Values.secret.databaseUrl }}
{{- end -}}
{{- end }}

{{- define "lit.redisUrl" -}}
{{- if .Values.bundled.enabled -}}
redis://:{{ .Values.bundled.password }}@{{ include "lit.name" . }}-valkey.{{ .Release.Namespace }}:6379/0
{{- else -}}
{{ required "secret.redisUrl: set it to the address of a Redis or Valkey, or name a Secret in secret.existingSecret" .Values.secret.redisUrl }}
{{- end -}}
{{- end }}

{{/* All of one release's processes read the same settings and the same storage. */}}
{{- define "lit.environment" -}}
envFrom:
  - configMapRef: {name: {{ include "lit.name" . }}}
  - secretRef: {name: {{ include "lit.secretName" . }}}
{{- end }}

{{- define "lit.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: work, mountPath: /work}
{{- if not .Values.storage.url }}
- {name: storage, mountPath: /storage}
{{- end }}
{{- end }}

{{- define "lit.volumes" -}}
- name: tmp
  emptyDir: {}
{{- if not .Values.storage.url }}
- name: storage
  persistentVolumeClaim:
    claimName: {{ .Values.storage.existingClaim | default (printf "%s-storage" (include "lit.name" .)) }}
{{- end }}
{{- end }}

{{- define "lit.pod" -}}
serviceAccountName: {{ include "lit.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false
# The pause container is process 1 and collects orphans, as Compose's `init` does.
shareProcessNamespace: true
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "lit.container" -}}
image: {{ include "lit.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext: {{- toYaml .Values.securityContext | nindent 2 }}
{{- end }}

{{/* A change of settings or of the chart's own Secret restarts the pods. */}}
{{- define "lit.checksum" -}}
checksum/settings: {{ list .Values.settings .Values.storage .Values.secret .Values.bundled | toJson | sha256sum }}
{{- end }}

{{- define "lit.placement" -}}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with index $ $field }}
{{ $field }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
